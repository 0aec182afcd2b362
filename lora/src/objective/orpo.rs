//! Odds-ratio preference optimisation.

use super::knobs::{self, Knob};
use super::loss::{Answer, Loss, Pair, PairLoss, Reduction, SftTerm};
use super::modifiers;
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "orpo",
    source: "arXiv 2403.07691, eq. 4 and 7",
    summary: "Fine-tuning on the chosen answers with a small push on the odds of chosen against rejected: no separate first stage",
    formula: "NLL of chosen - beta * ln sigmoid(log-odds of chosen - log-odds of rejected), of the geometric mean probability of a token",
    when: "From a base model in one stage.",
    knobs: &[
        Knob { help: "The paper's lambda: weight of the odds ratio beside the likelihood", ..knobs::BETA },
        knobs::SFT_REDUCTION,
    ],
    modifiers: &[&modifiers::WEIGHTING],
    build: |knobs| {
        let reduction = Reduction::named(knobs.choice("sft_reduction"));
        Loss::Pair(Box::new(Orpo { lambda: knobs.number("beta"), reduction }))
    },
    ..LossSpec::PAIRS_ALONE
};

/// `loss = -lambda ln sigmoid(log_odds(chosen) - log_odds(rejected))`, `log_odds = m - ln(1 - e^m)`, `m` the log-prob per token,
/// at most -1e-7. The objective adds the negative log-likelihood of the chosen answers.
///
/// Source: arXiv 2403.07691, eq. 4 and 7. TRL computes the likelihood over prompt and answer. LLaMA-Factory computes it over
/// the answer alone, and so does this program.
struct Orpo {
    lambda: f64,
    reduction: Reduction,
}

/// Returns the log-odds of the geometric mean of the token probabilities. They are bounded, because an answer of probability 1 has
/// infinite log-odds.
fn log_odds<'t>(answer: &Answer<'t>) -> Scalar<'t> {
    let m = answer.mean_logp().clamp_max(-1e-7);
    m - m.log1m_exp()
}

impl PairLoss for Orpo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        self.lambda * (-(log_odds(&pair.chosen) - log_odds(&pair.rejected))).softplus()
    }

    fn sft_term(&self) -> Option<SftTerm> {
        Some(SftTerm { weight: 1.0, reduction: self.reduction })
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(self.lambda * answer.mean_logp().value())
    }
}
