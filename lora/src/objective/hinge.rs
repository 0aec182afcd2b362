//! The hinge loss of RSO.

use super::knobs;
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "hinge",
    aliases: &["rso"],
    margin: true,
    source: "arXiv 2309.06657, hinge-norm",
    summary: "Pushes the reward margin up to 1 with constant force, then leaves the pair alone",
    formula: "max(0, 1 - m), m = beta * log_ratio_margin - margin",
    when: "Pairs that are already well ordered should stop mattering. It is what surveys print as SLiC; slic is SLiC-HF, which has \
           no reference.",
    knobs: &[knobs::BETA],
    build: |knobs| Loss::Pair(Box::new(Hinge { beta: knobs.number("beta") })),
    ..LossSpec::MARGINS
};

/// `loss = max(0, 1 - beta * log_ratio_margin)`.
///
/// Source: arXiv 2309.06657, "hinge-norm" (`beta` its gamma). Often called SLiC, but SLiC-HF has no reference in its margin.
struct Hinge {
    beta: f64,
}

impl PairLoss for Hinge {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (1.0 - pair.reward_margin(self.beta)).relu()
    }
}
