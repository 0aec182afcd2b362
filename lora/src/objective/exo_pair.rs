//! EXO on pairs: the reverse KL divergence from the smoothed preference.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

/// The scale of the reward, which the authors call beta_pi.
const BETA: Knob = Knob {
    help: "Scale of the reward, the authors' beta_pi: their scripts take 0.5 for dialogue (HH), summaries (TL;DR) and data of \
            one's own, and 0.1 for IMDB",
    ..knobs::BETA
};

pub(super) const SPEC: LossSpec = LossSpec {
    name: "exo_pair",
    aliases: &["exo", "exo-pref"],
    margin: true,
    source: "arXiv 2402.00856, eq. 16",
    summary: "Exact optimisation: reverse KL from the preference to the policy, mode-seeking where DPO covers the mass",
    formula: "KL([q, 1 - q] || [1 - label_smoothing, label_smoothing]), q = sigmoid(beta * log_ratio_margin - margin)",
    when: "The policy should take the best mode rather than spread over all good answers; pairs must not start far apart.",
    knobs: &[
        BETA,
        Knob::number(
            "label_smoothing",
            "label-smoothing",
            "Probability that the target gives to the rejected answer: the reward margin is pulled to ln((1 - e) / e)",
            1e-3,
            Range::open(0.0, 0.5),
        ),
        Knob {
            flag_aliases: &["exo-log-eps"],
            ..Knob::instead_of(
                "label_smoothing",
                "log_eps",
                "log-eps",
                "Target log-probs [0, log-eps], not normalised, as in the authors' code (there -10), instead of label smoothing",
                Range::NEGATIVE,
            )
        },
    ],
    build: |knobs| {
        let [log_target_chosen, log_target_rejected] = match knobs.number_if_given("log_eps") {
            Some(log_eps) => [0.0, log_eps],
            None => {
                let label_smoothing = knobs.number("label_smoothing");
                [(-label_smoothing).ln_1p(), label_smoothing.ln()]
            }
        };
        Loss::Pair(Box::new(ExoPair { beta: knobs.number("beta"), log_target_chosen, log_target_rejected }))
    },
    ..LossSpec::MARGINS
};

/// `loss = KL([q, 1 - q] || [1 - e, e])`, `q = sigmoid(m)`, `m = beta * log_ratio_margin - margin`, `e = label_smoothing`.
///
/// Source: arXiv 2402.00856, eq. 16 (`beta` is its beta_pi). The authors' code has the target log-probs `[0, -10]`, whose
/// probabilities do not sum to one. That loss is lowest at `m = 10`, where it is slightly below 0. TRL requires `e > 0` and
/// recommends 1e-3, with which the loss is lowest at `m = 6.9`. The default here is 1e-3 too; `log_eps` selects the authors' form.
///
/// The gradient is `beta q (1 - q) (m - ln((1 - e) / e))`: it vanishes for `m` far above or far below 0, so a pair that starts far
/// on the wrong side is not learned.
struct ExoPair {
    beta: f64,
    log_target_chosen: f64,
    log_target_rejected: f64,
}

impl PairLoss for ExoPair {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let reward_margin = pair.reward_margin(self.beta);
        let (chosen_prob, rejected_prob) = (reward_margin.sigmoid(), (-reward_margin).sigmoid());
        chosen_prob * (reward_margin.log_sigmoid() - self.log_target_chosen)
            + rejected_prob * ((-reward_margin).log_sigmoid() - self.log_target_rejected)
    }

    fn saturates_beyond(&self) -> Option<f64> {
        Some(20.0) // q (1 - q) is 2e-9 there
    }
}
