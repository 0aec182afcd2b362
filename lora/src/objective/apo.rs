//! Anchored preference optimisation. Accelerated preference optimisation (arXiv 2410.06293) is something else: a procedure over
//! iterations of a loss.

use super::knobs;
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const ZERO: LossSpec = LossSpec {
    name: "apo_zero",
    aliases: &["anchored_zero"],
    source: "arXiv 2408.06266, eq. 7",
    summary: "Makes chosen answers more likely and rejected ones less likely, each by itself",
    formula: "sigmoid(-r_chosen) + sigmoid(r_rejected), r = beta * log_ratio",
    when: "Chosen answers are better than what the model writes.",
    knobs: &[knobs::BETA],
    build: |knobs| Loss::Pair(Box::new(ApoZero { beta: knobs.number("beta") })),
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
    build: |knobs| Loss::Pair(Box::new(ApoDown { beta: knobs.number("beta") })),
    ..LossSpec::PAIRS
};

/// `loss = sigmoid(-r_chosen) + sigmoid(r_rejected)`, `r = beta * log_ratio`: bounded, so the gradient vanishes at both ends.
///
/// Source: arXiv 2408.06266, eq. 7, shifted by a constant as in TRL.
struct ApoZero {
    beta: f64,
}

impl PairLoss for ApoZero {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (-(self.beta * pair.chosen.log_ratio())).sigmoid() + (self.beta * pair.rejected.log_ratio()).sigmoid()
    }
}

/// `loss = sigmoid(r_chosen) + sigmoid(-(r_chosen - r_rejected))`, `r = beta * log_ratio`.
///
/// Source: arXiv 2408.06266, eq. 8, shifted by a constant as in TRL.
struct ApoDown {
    beta: f64,
}

impl PairLoss for ApoDown {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (self.beta * pair.chosen.log_ratio()).sigmoid() + (-(self.beta * pair.log_ratio_margin())).sigmoid()
    }
}
