//! Contrastive preference optimisation.

use super::knobs::{self, Knob, Range};
use super::loss::{Answer, Loss, Pair, PairLoss, Reduction, SftTerm, smoothed_log_loss};
use super::modifiers;
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "cpo",
    margin: true,
    source: "arXiv 2401.08417, eq. 3",
    summary: "DPO with a uniform reference, and the chosen answer's likelihood beside it",
    formula: "log-loss of beta * h - margin, h the margin of the policy's log-probs; plus cpo_alpha * NLL of chosen per token",
    when: "No reference, and chosen answers that are worth imitating, as in translation.",
    knobs: &[
        knobs::beta_of_policy(0.1),
        knobs::LABEL_SMOOTHING,
        Knob::number("cpo_alpha", "cpo-alpha", "Weight of the chosen answers' likelihood", 1.0, Range::NOT_NEGATIVE),
    ],
    modifiers: &[&modifiers::WEIGHTING],
    build: |knobs| {
        let [beta, label_smoothing, alpha] = knobs.numbers(["beta", "label_smoothing", "cpo_alpha"]);
        Loss::Pair(Box::new(Cpo { beta, label_smoothing, alpha }))
    },
    ..LossSpec::PAIRS_ALONE
};

/// `loss = -(1 - e) ln sigmoid(x) - e ln sigmoid(-x)`, `x = beta * h - margin`, `h` the margin of the policy's summed log-probs,
/// `e` the label smoothing. The objective adds `cpo_alpha` times the negative log-likelihood of the chosen answers, per token of
/// the batch.
///
/// Source: arXiv 2401.08417, eq. 3. The authors' code now implements the later ARPO variant.
struct Cpo {
    beta: f64,
    label_smoothing: f64,
    alpha: f64,
}

impl PairLoss for Cpo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let x = self.beta * (pair.chosen.policy - pair.rejected.policy);
        smoothed_log_loss(pair.beyond_margin(x), self.label_smoothing)
    }

    fn sft_term(&self) -> Option<SftTerm> {
        Some(SftTerm { weight: self.alpha, reduction: Reduction::TokenMean })
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(self.beta * answer.policy.value())
    }
}
