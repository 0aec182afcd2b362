//! SimPO: the margin of the policy's own log-probs per token, with a target.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::{Answer, Loss, Pair, PairLoss, smoothed_log_loss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "simpo",
    margin: true,
    source: "arXiv 2405.14734",
    summary: "No reference: the chosen answer must be likelier per token by a margin",
    formula: "log-loss of beta * (h - gamma_beta_ratio) - margin, h the margin of the policy's log-probs per token",
    when: "Memory or time for a reference is short, and answers must not grow longer.",
    knobs: &[knobs::beta_of_policy(2.0), knobs::LABEL_SMOOTHING, GAMMA_BETA_RATIO, SIMPO_GAMMA],
    build: |knobs| {
        let beta = knobs.number("beta");
        let (gamma, label_smoothing) = (gamma(knobs), knobs.number("label_smoothing"));
        Loss::Pair(Box::new(SimPo { beta, gamma, label_smoothing }))
    },
    ..LossSpec::PAIRS_ALONE
};

/// The target margin divided by beta.
pub(super) const GAMMA_BETA_RATIO: Knob =
    Knob::number("gamma_beta_ratio", "gamma-beta-ratio", "Target margin / beta", 0.5, Range::NOT_NEGATIVE);

/// The target margin itself.
pub(super) const SIMPO_GAMMA: Knob = Knob::instead_of(
    "gamma_beta_ratio",
    "simpo_gamma",
    "simpo-gamma",
    "Target margin, as TRL takes it, instead of its ratio to beta",
    Range::NOT_NEGATIVE,
);

/// Returns the target margin: `simpo_gamma` if it is given, else `gamma_beta_ratio * beta`.
pub(super) fn gamma(knobs: &Knobs) -> f64 {
    let of_ratio = || knobs.number("gamma_beta_ratio") * knobs.number("beta");
    knobs.number_if_given("simpo_gamma").unwrap_or_else(of_ratio)
}

/// `loss = -(1 - e) ln sigmoid(x) - e ln sigmoid(-x)`, `x = beta * h - gamma - margin`, `h` the margin of the policy's log-probs
/// per token, `e` the label smoothing.
///
/// Source: arXiv 2405.14734. The authors add no likelihood term. TRL adds one (`cpo_alpha` 1) by default, and its `simpo_gamma`
/// of 0.5 is meant for its `beta` of 0.1.
struct SimPo {
    beta: f64,
    gamma: f64,
    label_smoothing: f64,
}

impl PairLoss for SimPo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let x = self.beta * pair.mean_logp_margin() - self.gamma;
        smoothed_log_loss(pair.beyond_margin(x), self.label_smoothing)
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(self.beta * answer.mean_logp().value())
    }
}
