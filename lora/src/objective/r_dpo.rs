//! Length-regularised DPO.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "r_dpo",
    margin: true,
    source: "arXiv 2403.19159",
    summary: "DPO of a reward that charges for length: a longer chosen answer needs less margin",
    formula: "-ln sigmoid(beta * log_ratio_margin + alpha * (tokens chosen - tokens rejected) - margin)",
    when: "DPO makes answers longer.",
    knobs: &[knobs::BETA, Knob::number("alpha", "alpha", "Penalty on each token", 0.01, Range::NOT_NEGATIVE)],
    build: r_dpo,
    ..LossSpec::MARGINS
};

/// `loss = -ln sigmoid(beta * log_ratio_margin + alpha * (tokens of chosen - tokens of rejected) - margin)`.
///
/// Source: arXiv 2403.19159. The sign follows from a reward that loses `alpha` per token. The alpha-DPO authors have the
/// opposite sign.
fn r_dpo(knobs: &Knobs) -> Loss {
    let [beta, alpha] = knobs.numbers(["beta", "alpha"]);
    Loss::of_pair(move |pair| (-(pair.reward_margin(beta) + alpha * (pair.chosen.len - pair.rejected.len))).softplus())
}
