//! DPO with log-ratios per token.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "sigmoid_norm",
    aliases: &["dpo_norm", "ln_dpo"],
    margin: true,
    source: "arXiv 2411.15124, sec. 4.3",
    summary: "DPO on means per token, so that long answers do not dominate; wants a far larger beta",
    formula: "-ln sigmoid(beta * h - margin), h the margin of the log-ratios per token",
    when: "DPO makes answers longer, and you want to keep a reference.",
    knobs: &[knobs::beta(5.0)],
    build: sigmoid_norm,
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * h - margin)`, `h` the margin of the log-ratios per token.
///
/// Source: arXiv 2411.15124, sec. 4.3, and SimPO's ablation. Log-ratios per token are small, so `beta` is 1 to 10.
fn sigmoid_norm(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| (-pair.beyond_margin(beta * pair.mean_log_ratio_margin())).softplus())
}
