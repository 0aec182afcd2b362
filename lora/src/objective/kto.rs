//! KTO on labelled single answers.

use super::history::History;
use super::knobs;
use super::loss::{Answer, BatchLogRatios, Coupling, Label, Loss, Statistics, UnpairedLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "kto",
    source: "arXiv 2402.01306, eq. 7",
    summary: "Labelled single answers: a bounded loss against a reference point shared by the batch",
    formula: "desirable_weight * sigmoid(beta * (kl - r)) or undesirable_weight * sigmoid(beta * (r - kl)), r the log-ratio, kl the mean of r over mismatched \
              answers, at least 0",
    when: "Thumbs up and down instead of pairs.",
    knobs: &[knobs::BETA, knobs::DESIRABLE_WEIGHT, knobs::UNDESIRABLE_WEIGHT],
    build: |knobs| {
        let [beta, desirable_weight, undesirable_weight] =
            knobs.numbers(["beta", "desirable_weight", "undesirable_weight"]);
        Loss::Unpaired(Box::new(Kto { beta, desirable_weight, undesirable_weight }))
    },
    ..LossSpec::UNPAIRED
};

/// `loss = desirable_weight * sigmoid(beta * (kl - r))` of a desirable answer, and
/// `undesirable_weight * sigmoid(beta * (r - kl))` of an undesirable one, `r` the log-ratio of the answer.
/// `kl = max(0, mean log-ratio of the batch's mismatched answers)` has no gradient.
///
/// Source: arXiv 2402.01306, eq. 7. A mismatched answer is the previous row's answer after this row's prompt, as in TRL. For rows
/// made from pairs, it is the answer of the nearest earlier row with another prompt. HALOs leaves answers with a zero log-ratio
/// out of the mean; here, as in TRL, all count. HALOs and TRL compute `kl` per micro-batch; here it is computed over the
/// optimiser batch.
struct Kto {
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
}

impl UnpairedLoss for Kto {
    fn coupling(&self) -> Coupling {
        Coupling::MismatchedRows
    }

    fn statistics(&self, batch: &BatchLogRatios<'_>, history: &History) -> Statistics {
        let mean = batch.mismatched.iter().sum::<f64>() / batch.mismatched.len() as f64;
        Statistics::new([("kl", mean.max(0.0))]).remembering(*history)
    }

    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, statistics: &Statistics) -> Scalar<'t> {
        let above_reference_point = self.beta * (answer.log_ratio() - statistics.get("kl"));
        match label {
            Label::Desirable => self.desirable_weight * (-above_reference_point).sigmoid(),
            Label::Undesirable => self.undesirable_weight * above_reference_point.sigmoid(),
        }
    }
}
