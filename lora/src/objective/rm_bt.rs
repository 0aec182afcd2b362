//! Bradley-Terry reward model: a scalar per answer, and the log-loss of the difference.

use super::knobs::{Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::{LossSpec, Scores};
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "rm_bt",
    aliases: &["bt", "reward"],
    margin: true,
    reference: false,
    scores: Scores::Reward,
    source: "arXiv 2203.02155; the margin is of arXiv 2307.09288, the centring of arXiv 2312.09244",
    summary: "Bradley-Terry reward model: a score head on the last token, larger for the preferred answer",
    formula: "softplus(-(reward_chosen - reward_rejected - margin)) + center_coef * (reward_chosen + reward_rejected)^2",
    when: "A reward model from pairs: to score or rank answers, or as the reward of reinforcement learning.",
    knobs: &[Knob {
        flag_aliases: &["center-rewards-coefficient"],
        ..Knob::number(
            "center_coef",
            "center-coef",
            "Pulls the rewards of the two answers towards a sum of 0",
            0.0,
            Range::NOT_NEGATIVE,
        )
    }],
    modifiers: &[],
    build: |knobs| Loss::Pair(Box::new(RmBt { center_coef: knobs.number("center_coef") })),
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(r_chosen - r_rejected - margin) + center_coef (r_chosen + r_rejected)²`. The logged loss of a pair leaves
/// out the second term.
///
/// Source: arXiv 2203.02155, eq. 1 for two answers; margin: arXiv 2307.09288, eq. 2; centring: arXiv 2312.09244, as in TRL.
struct RmBt {
    center_coef: f64,
}

impl PairLoss for RmBt {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (-pair.beyond_margin(pair.chosen.policy - pair.rejected.policy)).softplus()
    }

    fn regulariser<'t>(&self, pair: &Pair<'t>) -> Option<Scalar<'t>> {
        let centred = || self.center_coef * (pair.chosen.policy + pair.rejected.policy).square();
        (self.center_coef > 0.0).then(centred)
    }
}
