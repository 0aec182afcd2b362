//! The loss that a language model found.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "discopop",
    aliases: &["lrml"],
    margin: true,
    source: "arXiv 2406.08414, eq. 5",
    summary: "The logistic and the exponential loss blended by the margin itself; found by search",
    formula: "-(1 - s) ln sigmoid(m) + s e^-m, s = sigmoid(m / tau), m = beta * log_ratio_margin - margin",
    when: "Worth a try beside DPO; it is not convex, so the loss may rise for slightly negative margins.",
    knobs: &[
        knobs::beta(0.05),
        Knob::number(
            "discopop_tau",
            "discopop-tau",
            "Margin over which the two losses are blended",
            0.05,
            Range::POSITIVE,
        ),
    ],
    build: |knobs| Loss::Pair(Box::new(DiscoPop { beta: knobs.number("beta"), tau: knobs.number("discopop_tau") })),
    ..LossSpec::MARGINS
};

/// `loss = -(1 - s) ln sigmoid(m) + s e^-m`, `s = sigmoid(m / tau)`, `m = beta * log_ratio_margin`.
///
/// Source: arXiv 2406.08414, eq. 5. `e^-m` overflows before `s` underflows it, so their product is one exponential.
struct DiscoPop {
    beta: f64,
    tau: f64,
}

impl PairLoss for DiscoPop {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let m = pair.reward_margin(self.beta);
        let blend = m / self.tau;
        (-blend).sigmoid() * (-m).softplus() + (blend.log_sigmoid() - m).exp()
    }
}
