//! Anchored preference optimisation. Accelerated preference optimisation (arXiv 2410.06293) is another method, which speeds up
//! iterative training.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const ZERO: LossSpec = LossSpec {
    name: "apo_zero",
    aliases: &["anchored_zero"],
    source: "arXiv 2408.06266, eq. 7",
    summary: "Makes chosen answers more likely and rejected ones less likely, each by itself",
    formula: "sigmoid(-r_chosen) + sigmoid(r_rejected), r = beta * log_ratio",
    when: "Chosen answers are better than what the model writes.",
    knobs: &[knobs::BETA],
    build: apo_zero,
    ..LossSpec::PAIRS
};

pub(super) const DOWN: LossSpec = LossSpec {
    name: "apo_down",
    aliases: &["anchored_down"],
    source: "arXiv 2408.06266, eq. 8",
    summary: "Makes both answers less likely, the rejected one more so",
    formula: "sigmoid(r_chosen) + sigmoid(-(r_chosen - r_rejected)), r = beta * log_ratio",
    when: "The model already writes better answers than the chosen ones.",
    knobs: &[knobs::BETA],
    build: apo_down,
    ..LossSpec::PAIRS
};

/// `loss = sigmoid(-r_chosen) + sigmoid(r_rejected)`, `r = beta * log_ratio`. The loss is bounded, so the gradient vanishes at
/// both ends.
///
/// Source: arXiv 2408.06266, eq. 7, shifted by a constant as in TRL.
fn apo_zero(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| {
        (-(beta * pair.chosen.log_ratio())).sigmoid() + (beta * pair.rejected.log_ratio()).sigmoid()
    })
}

/// `loss = sigmoid(r_chosen) + sigmoid(-(r_chosen - r_rejected))`, `r = beta * log_ratio`.
///
/// Source: arXiv 2408.06266, eq. 8, shifted by a constant as in TRL.
fn apo_down(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| {
        (beta * pair.chosen.log_ratio()).sigmoid() + (-(beta * pair.log_ratio_margin())).sigmoid()
    })
}
