//! DPO that pushes a rejected answer down only while the policy likes it more than the reference does.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "minor_dpo",
    aliases: &["minordpo"],
    experimental: true,
    source: "arXiv 2408.09834",
    summary: "DPO without a push on rejected answers that are already less likely than under the reference",
    formula: "-ln sigmoid(beta * (a - max(0, b))), a and b the log-ratios of chosen and rejected",
    when: "DPO pushes both answers down.",
    knobs: &[knobs::BETA],
    build: minor_dpo,
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * (a - max(0, b)))`, `a` and `b` the log-ratios of chosen and rejected.
///
/// Source: arXiv 2408.09834. The formula comes from other implementations; it was not checked against the paper's equation. At
/// the first step `b` is 0, where the derivative of `max` is 0, so rejected answers are not pushed until the policy moves.
fn minor_dpo(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| (-(beta * (pair.chosen.log_ratio() - pair.rejected.log_ratio().relu()))).softplus())
}
