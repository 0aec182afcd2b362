//! The hinge loss of RSO.

use super::knobs;
use super::loss::{DataKind, Loss, LossSpec, Pair, PairLoss};
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "hinge",
    aliases: &["rso"],
    presets: &[],
    data: DataKind::Pairs,
    reference: true,
    source: "arXiv 2309.06657, hinge-norm",
    summary: "Pushes the reward margin up to 1 with constant force, then leaves the pair alone",
    knobs: &[knobs::BETA],
    build: |knobs| Loss::Pair(Box::new(Hinge { beta: knobs.number("beta") })),
};

/// `loss = max(0, 1 - beta * log_ratio_margin)`.
///
/// Source: arXiv 2309.06657, "hinge-norm" (`beta` its gamma). Often called SLiC, but SLiC-HF has no reference in its margin.
struct Hinge {
    beta: f64,
}

impl PairLoss for Hinge {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (1.0 - self.beta * pair.log_ratio_margin()).relu()
    }
}
