//! Reward model of rankings: the log-loss of every pair of answers to one prompt.

use super::loss::{Answer, KWayLoss, Loss};
use super::spec::{LossSpec, Scores};
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "rm_rank",
    aliases: &["instructgpt"],
    reference: false,
    scores: Scores::Reward,
    source: "arXiv 2203.02155",
    summary: "Reward model of rankings: the mean of rm_bt over all pairs of answers to a prompt",
    formula: "mean of softplus(-(score_i - score_j)) over the pairs with reward_i > reward_j; score is the model's, reward the row's",
    when: "A reward model from several ranked or scored answers a prompt; equal rewards make no pair.",
    knobs: &[],
    build: |_| Loss::KWay(Box::new(RmRank)),
    ..LossSpec::KWAY
};

/// `loss = mean over i, j with reward_i > reward_j of -ln sigmoid(score_i - score_j)`, 0 if no two rewards differ.
///
/// Source: arXiv 2203.02155, eq. 1. K answers without ties make K (K - 1) / 2 pairs.
struct RmRank;

impl KWayLoss for RmRank {
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t> {
        let mut pairs = Vec::with_capacity(answers.len() * answers.len() / 2);
        for (better, high) in answers.iter().zip(rewards) {
            let worse = answers.iter().zip(rewards).filter(|(_, low)| high > *low);
            pairs.extend(worse.map(|(worse, _)| (worse.policy - better.policy).softplus()));
        }
        match pairs[..] {
            [] => 0.0 * answers[0].policy,
            _ => Scalar::mean(&pairs),
        }
    }

    fn is_undecided(&self, rewards: &[f64]) -> bool {
        rewards.iter().all(|reward| *reward == rewards[0])
    }
}
