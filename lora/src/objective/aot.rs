//! Alignment via optimal transport: compares two sorted lists of margins or log-ratios of a batch, as distributions.

use super::history::History;
use super::knobs;
use super::loss::{Loss, Pair, PairBatchLoss, Statistics, smoothed_log_loss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const PAIRED: LossSpec = LossSpec {
    name: "aot",
    aliases: &["aot_pair"],
    source: "arXiv 2406.05882",
    summary: "The policy's margins, sorted, must lie above the reference's, sorted: better as a distribution over the batch",
    formula: "log-loss of beta * (sort(policy margins) - sort(reference margins)), over the batch",
    when: "Single labels are unreliable, but chosen answers are better on the whole; wants large batches.",
    knobs: &[knobs::beta(0.01), knobs::LABEL_SMOOTHING],
    build: |knobs| Loss::PairBatch(Box::new(Aot::new(knobs, Sorted::Margins))),
    ..LossSpec::PAIR_BATCHES
};

pub(super) const UNPAIRED: LossSpec = LossSpec {
    name: "aot_unpaired",
    source: "arXiv 2406.05882",
    summary: "The chosen log-ratios, sorted, must lie above the rejected ones, sorted",
    formula: "log-loss of beta * (sort(chosen log-ratios) - sort(rejected log-ratios)), over the batch",
    when: "As aot, if chosen and rejected answers do not belong together.",
    knobs: &[knobs::beta(0.01), knobs::LABEL_SMOOTHING],
    build: |knobs| Loss::PairBatch(Box::new(Aot::new(knobs, Sorted::Answers))),
    ..LossSpec::PAIR_BATCHES
};

/// `loss_j = -(1 - e) ln sigmoid(beta d_j) - e ln sigmoid(-beta d_j)`, `d` the difference of two sorted lists over the optimiser
/// batch, `e` the label smoothing. The gradient goes back through the permutation. A batch of one pair gives the loss of DPO.
///
/// Source: arXiv 2406.05882. TRL sorts within a micro-batch.
struct Aot {
    beta: f64,
    label_smoothing: f64,
    sorted: Sorted,
}

enum Sorted {
    /// Compares the policy's margins `chosen - rejected` of the log-probs with the reference's margins.
    Margins,
    /// Compares the log-ratios of the chosen answers with those of the rejected ones.
    Answers,
}

impl Aot {
    fn new(knobs: &knobs::Knobs, sorted: Sorted) -> Self {
        Aot { beta: knobs.number("beta"), label_smoothing: knobs.number("label_smoothing"), sorted }
    }
}

impl PairBatchLoss for Aot {
    fn statistics(&self, _: &[Pair<'_>], history: &History) -> Statistics {
        Statistics::default().remembering(*history)
    }

    fn compares_pairs(&self) -> bool {
        true
    }

    fn losses<'t>(&self, pairs: &[Pair<'t>], _: &Statistics) -> Vec<Scalar<'t>> {
        let tape = pairs[0].chosen.policy.tape();
        let (above, below): (Vec<_>, Vec<_>) = match self.sorted {
            Sorted::Margins => (pairs.iter())
                .map(|Pair { chosen, rejected, .. }| {
                    (chosen.policy - rejected.policy, tape.leaf(chosen.reference - rejected.reference))
                })
                .unzip(),
            Sorted::Answers => pairs.iter().map(|pair| (pair.chosen.log_ratio(), pair.rejected.log_ratio())).unzip(),
        };
        let differences = sorted(above).into_iter().zip(sorted(below)).map(|(above, below)| above - below);
        differences.map(|d| smoothed_log_loss(self.beta * d, self.label_smoothing)).collect()
    }
}

/// Sorts in ascending order and keeps the order of equal numbers. The head has checked that the numbers are finite.
fn sorted<'t>(mut values: Vec<Scalar<'t>>) -> Vec<Scalar<'t>> {
    values.sort_by(|a, b| a.value().total_cmp(&b.value()));
    values
}
