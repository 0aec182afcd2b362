//! DPO-Positive: a penalty if the chosen answer becomes less likely.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "dpop",
    aliases: &["smaug", "dpo_positive"],
    margin: true,
    experimental: true,
    source: "arXiv 2402.13228",
    summary: "DPO that first wants the chosen answer at least as likely as under the reference",
    formula: "-ln sigmoid(beta * (log_ratio_margin - lambda * max(0, -a)) - margin), a the chosen log-ratio",
    when: "Pairs whose answers differ in a few tokens: DPO makes the chosen one less likely there.",
    knobs: &[knobs::BETA, Knob::number("lambda", "lambda", "Weight of the penalty", 50.0, Range::NOT_NEGATIVE)],
    build: dpop,
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * (log_ratio_margin - lambda * max(0, reference(chosen) - policy(chosen))) - margin)`.
///
/// Source: arXiv 2402.13228; not checked against its equation. One implementation has the penalty outside the sigmoid.
fn dpop(knobs: &Knobs) -> Loss {
    let [beta, lambda] = knobs.numbers(["beta", "lambda"]);
    Loss::of_pair(move |pair| {
        let penalty = lambda * (-pair.chosen.log_ratio()).relu();
        (-pair.beyond_margin(beta * (pair.log_ratio_margin() - penalty))).softplus()
    })
}
