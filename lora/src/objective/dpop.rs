//! DPO-Positive: a penalty if the chosen answer becomes less likely.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

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
    build: |knobs| Loss::Pair(Box::new(Dpop { beta: knobs.number("beta"), lambda: knobs.number("lambda") })),
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * (log_ratio_margin - lambda * max(0, reference(chosen) - policy(chosen))))`.
///
/// Source: arXiv 2402.13228, whose equation was not at hand. One implementation has the penalty outside the sigmoid.
struct Dpop {
    beta: f64,
    lambda: f64,
}

impl PairLoss for Dpop {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let penalty = self.lambda * (-pair.chosen.log_ratio()).relu();
        (-pair.beyond_margin(self.beta * (pair.log_ratio_margin() - penalty))).softplus()
    }
}
