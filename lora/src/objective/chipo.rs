//! Chi-squared preference optimisation.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "chipo",
    aliases: &["chi_po", "chi2po"],
    margin: true,
    experimental: true,
    source: "arXiv 2407.13399, algorithm 1",
    summary: "DPO with the chi-squared divergence beside the KL: pessimistic about answers that the data does not cover",
    formula: "-ln sigmoid(x - margin), x = beta * (phi(a) - phi(b)) within 2 r_max, phi(r) = e^(chi_alpha r) + chi_gamma r, exponents \
              from -88 to 20",
    when: "Offline data covers little of what the policy may write; watch the share of clipped pairs.",
    knobs: &[
        knobs::BETA,
        Knob::number("chi_alpha", "chi-alpha", "Scale of the exponent of the chi-squared part", 1.0, Range::POSITIVE),
        Knob::number("chi_gamma", "chi-gamma", "Weight of the KL part", 1.0, Range::NOT_NEGATIVE),
        Knob::number("r_max", "r-max", "Half of the largest margin: no gradient beyond", 10.0, Range::POSITIVE),
    ],
    build: |knobs| {
        let [beta, alpha, gamma, r_max] = knobs.numbers(["beta", "chi_alpha", "chi_gamma", "r_max"]);
        Loss::Pair(Box::new(ChiPo { beta, alpha, gamma, r_max }))
    },
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(x - margin)`, `x = clip(beta * (phi(a) - phi(b)), -2 r_max, 2 r_max)`,
/// `phi(r) = e^clip(alpha r, -88, 20) + gamma r`, `a` and `b` the log-ratios of chosen and rejected. A clipped value has no
/// gradient.
///
/// Source: arXiv 2407.13399, algorithm 1. Clips and defaults are those of other implementations, and were not checked against the
/// paper. For whole sequences the exponential is astronomically small or clipped, and the outer clip also removes the gradient of
/// badly ordered pairs.
struct ChiPo {
    beta: f64,
    alpha: f64,
    gamma: f64,
    r_max: f64,
}

impl ChiPo {
    fn phi<'t>(&self, log_ratio: Scalar<'t>) -> Scalar<'t> {
        (self.alpha * log_ratio).clip(-88.0, 20.0).exp() + self.gamma * log_ratio
    }

    fn unclipped<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        self.beta * (self.phi(pair.chosen.log_ratio()) - self.phi(pair.rejected.log_ratio()))
    }
}

impl PairLoss for ChiPo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let limit = 2.0 * self.r_max;
        (-pair.beyond_margin(self.unclipped(pair).clip(-limit, limit))).softplus()
    }

    fn is_clipped(&self, pair: &Pair<'_>) -> Option<bool> {
        Some(self.unclipped(pair).value().abs() > 2.0 * self.r_max)
    }
}
