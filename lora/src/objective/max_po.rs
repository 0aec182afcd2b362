//! Maximum preference optimisation with importance sampling.

use super::knobs::{Knob, Range};
use super::loss::{Answer, Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "max_po",
    aliases: &["mpo_is"],
    experimental: true,
    source: "arXiv 2312.16430",
    summary: "Preferences as rewards, off-policy, without a reference; a likelihood term on other texts holds the policy",
    formula: "-sigmoid(h) + eta * NLL(reference data), h the margin of the policy's log-probs",
    when: "For experiments: it is reconstructed from the abstract, and no code of the authors is known.",
    knobs: &[Knob::number(
        "eta",
        "eta",
        "Weight of the likelihood of the texts of --reference-data",
        0.0,
        Range::NOT_NEGATIVE,
    )],
    build: |_| Loss::Pair(Box::new(MaxPo)),
    ..LossSpec::PAIRS_ALONE
};

/// `loss = -sigmoid(h)`, `h` the margin of the policy's summed log-probs; the objective adds `eta` times the negative
/// log-likelihood per token of the reference data. Evaluations have no reference data, so they leave that term out.
///
/// Source: arXiv 2312.16430, reconstructed from its abstract.
struct MaxPo;

impl PairLoss for MaxPo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        -(pair.chosen.policy - pair.rejected.policy).sigmoid()
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(answer.policy.value())
    }
}
