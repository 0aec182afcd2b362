//! Sequence likelihood calibration.

use super::knobs::{self, Knob, Range};
use super::loss::{Answer, Loss, Pair, PairLoss, Reduction, SftTerm};
use super::modifiers;
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "slic",
    aliases: &["slic_hf"],
    source: "arXiv 2305.10425",
    summary: "The chosen answer must be likelier by delta nats; the chosen answers' likelihood holds the policy",
    formula: "max(0, delta - h) + lambda * NLL of chosen, h the margin of the policy's log-probs",
    when: "The oldest of these; where its hinge without a reference is wanted. What surveys print as SLiC has a reference in its \
           margin: that is hinge.",
    knobs: &[
        Knob::number("delta", "delta", "Margin in nats", 1.0, Range::POSITIVE),
        Knob::number("lambda", "lambda", "Weight of the chosen answers' likelihood", 0.1, Range::NOT_NEGATIVE),
        knobs::SFT_REDUCTION,
    ],
    modifiers: &[&modifiers::WEIGHTING],
    build: |knobs| {
        let reduction = Reduction::named(knobs.choice("sft_reduction"));
        Loss::Pair(Box::new(Slic { delta: knobs.number("delta"), lambda: knobs.number("lambda"), reduction }))
    },
    ..LossSpec::PAIRS_ALONE
};

/// `loss = max(0, delta - h)`, `h` the margin of the policy's summed log-probs. The objective adds `lambda` times the negative
/// log-likelihood of the chosen answers.
///
/// Source: arXiv 2305.10425, with the chosen answers instead of samples of the fine-tuned model, as is common practice. The
/// paper's sum over an answer is `--sft-reduction seq_sum`.
struct Slic {
    delta: f64,
    lambda: f64,
    reduction: Reduction,
}

impl PairLoss for Slic {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (self.delta - (pair.chosen.policy - pair.rejected.policy)).relu()
    }

    fn sft_term(&self) -> Option<SftTerm> {
        Some(SftTerm { weight: self.lambda, reduction: self.reduction })
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(answer.policy.value())
    }
}
