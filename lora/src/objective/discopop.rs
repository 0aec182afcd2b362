//! DiscoPOP: a loss that was found by a search with a language model.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::Loss;
use super::spec::LossSpec;

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
    build: discopop,
    ..LossSpec::MARGINS
};

/// `loss = -(1 - s) ln sigmoid(m) + s e^-m`, `s = sigmoid(m / tau)`, `m = beta * log_ratio_margin - margin`.
///
/// Source: arXiv 2406.08414, eq. 5. For very negative `m`, `e^-m` overflows although `s e^-m` is small. So the product is
/// computed as one exponential.
fn discopop(knobs: &Knobs) -> Loss {
    let [beta, tau] = knobs.numbers(["beta", "discopop_tau"]);
    Loss::of_pair(move |pair| {
        let m = pair.reward_margin(beta);
        let blend = m / tau;
        (-blend).sigmoid() * (-m).softplus() + (blend.log_sigmoid() - m).exp()
    })
}
