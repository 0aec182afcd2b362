//! Anchored preference optimisation on labelled single answers.

use super::history::History;
use super::knobs;
use super::loss::{Answer, BatchLogRatios, Coupling, Label, Loss, Statistics, UnpairedLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "apo_zero_unpaired",
    source: "arXiv 2408.06266, eq. 7, as TRL takes it apart",
    summary: "KTO with a reference point of 0: rows do not depend on one another",
    formula: "desirable_weight * sigmoid(-r) or undesirable_weight * sigmoid(r), r = beta * log_ratio",
    when: "Thumbs up and down, if KTO's reference point is noisy or batches are small.",
    knobs: &[knobs::BETA, knobs::DESIRABLE_WEIGHT, knobs::UNDESIRABLE_WEIGHT],
    build: |knobs| {
        let [beta, desirable_weight, undesirable_weight] =
            knobs.numbers(["beta", "desirable_weight", "undesirable_weight"]);
        Loss::Unpaired(Box::new(ApoZeroUnpaired { beta, desirable_weight, undesirable_weight }))
    },
    ..LossSpec::UNPAIRED
};

/// `loss = desirable_weight * sigmoid(-r)` of a desirable answer, and `undesirable_weight * sigmoid(r)` of an undesirable one,
/// `r = beta * log_ratio`.
///
/// Source: TRL's form of arXiv 2408.06266, eq. 7.
struct ApoZeroUnpaired {
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
}

impl UnpairedLoss for ApoZeroUnpaired {
    fn coupling(&self) -> Coupling {
        Coupling::None
    }

    fn statistics(&self, _: &BatchLogRatios<'_>, history: &History) -> Statistics {
        Statistics::default().remembering(*history)
    }

    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, _: &Statistics) -> Scalar<'t> {
        let reward = self.beta * answer.log_ratio();
        match label {
            Label::Desirable => self.desirable_weight * (-reward).sigmoid(),
            Label::Undesirable => self.undesirable_weight * reward.sigmoid(),
        }
    }
}
