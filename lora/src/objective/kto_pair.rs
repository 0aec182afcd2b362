//! KTO's early variant for pairs: the reference point of the chosen answers comes from the rejected ones, and vice versa.

use super::history::History;
use super::knobs::{self, Knob};
use super::loss::{Loss, Pair, PairBatchLoss, Statistics};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "kto_pair",
    source: "arXiv 2402.01306, the paired variant of TRL 0.8",
    summary: "KTO on whole pairs, each half giving the other's reference point; `kto` takes the same data apart",
    formula: "two items a pair: desirable_weight * sigmoid(beta * (z - a)) and undesirable_weight * sigmoid(beta * (b - z')), z and z' \
              the means of the other half's log-ratios, at least 0",
    when: "To compare with results of TRL 0.8; otherwise kto.",
    knobs: &[
        knobs::BETA,
        knobs::DESIRABLE_WEIGHT,
        knobs::UNDESIRABLE_WEIGHT,
        Knob {
            flag_aliases: &["kl-grad"],
            ..Knob::switch(
                "kl_grad",
                "kto-kl-grad",
                "Let the gradient flow through the reference points, as TRL 0.8 did",
                false,
            )
        },
    ],
    build: |knobs| {
        let [beta, desirable_weight, undesirable_weight] =
            knobs.numbers(["beta", "desirable_weight", "undesirable_weight"]);
        Loss::PairBatch(Box::new(KtoPair {
            beta,
            desirable_weight,
            undesirable_weight,
            kl_grad: knobs.switch("kl_grad"),
        }))
    },
    ..LossSpec::PAIR_BATCHES
};

/// Each pair has two items. The items of all chosen answers come first, then those of all rejected answers. They are:
/// `desirable_weight * sigmoid(beta * (z_chosen - chosen log-ratio))`, `z_chosen = max(0, mean of the rejected log-ratios)`;
/// `undesirable_weight * sigmoid(beta * (rejected log-ratio - z_rejected))`, `z_rejected = max(0, mean of the chosen log-ratios)`.
///
/// Source: `kto_pair` in TRL 0.8 and 0.9 and in the SPPO authors' code. There the gradient flows through the means. In the KTO
/// paper and in HALOs it does not, and neither does it here by default. One published variant puts the weights inside the
/// sigmoid, in place of `beta`.
struct KtoPair {
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
    kl_grad: bool,
}

/// Returns the reference points of the chosen and of the rejected answers.
fn reference_points<'t>(pairs: &[Pair<'t>]) -> [Scalar<'t>; 2] {
    let chosen: Vec<_> = pairs.iter().map(|pair| pair.chosen.log_ratio()).collect();
    let rejected: Vec<_> = pairs.iter().map(|pair| pair.rejected.log_ratio()).collect();
    [Scalar::mean(&rejected).relu(), Scalar::mean(&chosen).relu()]
}

impl PairBatchLoss for KtoPair {
    fn statistics(&self, pairs: &[Pair<'_>], history: &History) -> Statistics {
        let [z_chosen, z_rejected] = reference_points(pairs);
        Statistics::new([("kl/chosen", z_chosen.value()), ("kl/rejected", z_rejected.value())]).remembering(*history)
    }

    fn compares_pairs(&self) -> bool {
        self.kl_grad
    }

    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>> {
        let [z_chosen, z_rejected] = if self.kl_grad {
            reference_points(pairs)
        } else {
            let tape = pairs[0].chosen.policy.tape();
            [tape.leaf(statistics.get("kl/chosen")), tape.leaf(statistics.get("kl/rejected"))]
        };
        let chosen = pairs
            .iter()
            .map(|pair| self.desirable_weight * (self.beta * (z_chosen - pair.chosen.log_ratio())).sigmoid());
        let rejected = pairs
            .iter()
            .map(|pair| self.undesirable_weight * (self.beta * (pair.rejected.log_ratio() - z_rejected)).sigmoid());
        chosen.chain(rejected).collect()
    }
}
