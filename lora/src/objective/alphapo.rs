//! AlphaPO: SimPO with another reward shape.

use super::knobs::{self, Knob, Range};
use super::loss::{Answer, Loss, Pair, PairLoss};
use super::simpo::{GAMMA_BETA_RATIO, SIMPO_GAMMA, gamma};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "alphapo",
    margin: true,
    source: "arXiv 2501.03884",
    summary: "SimPO with the reward (1 - e^(-alpha * log-prob per token)) / alpha: steeper where answers are unlikely",
    formula: "-ln sigmoid(beta * (rho(chosen) - rho(rejected) - gamma_beta_ratio) - margin), rho = (1 - e^(-alpha * log-prob per token)) / alpha",
    when: "SimPO makes both answers less likely.",
    knobs: &[
        knobs::beta_of_policy(2.5),
        Knob::number("alpha", "alpha", "Shape of the reward; near 0 it is SimPO", 0.25, Range::POSITIVE),
        GAMMA_BETA_RATIO,
        SIMPO_GAMMA,
    ],
    build: |knobs| {
        Loss::Pair(Box::new(AlphaPo { beta: knobs.number("beta"), alpha: knobs.number("alpha"), gamma: gamma(knobs) }))
    },
    ..LossSpec::PAIRS_ALONE
};

/// `loss = -ln sigmoid(beta * (rho(chosen) - rho(rejected)) - gamma - margin)`, `rho = (1 - e^(-alpha m)) / alpha`, `m` the
/// log-prob per token.
///
/// Source: arXiv 2501.03884.
struct AlphaPo {
    beta: f64,
    alpha: f64,
    gamma: f64,
}

impl AlphaPo {
    fn rho<'t>(&self, answer: &Answer<'t>) -> Scalar<'t> {
        -(-(self.alpha * answer.mean_logp())).exp_m1() / self.alpha
    }
}

impl PairLoss for AlphaPo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let [chosen, rejected] = [pair.chosen, pair.rejected].map(|answer| self.rho(&answer));
        (-pair.beyond_margin(self.beta * (chosen - rejected) - self.gamma)).softplus()
    }

    fn reward(&self, answer: &Answer<'_>) -> Option<f64> {
        Some(self.beta * self.rho(answer).value())
    }
}
