//! Noise contrastive alignment on pairs.

use super::knobs;
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "nca_pair",
    source: "arXiv 2402.05369, NCA with two answers and rewards of 1 and 0",
    summary: "Pulls the chosen reward to ln 2 and pushes the rejected one down: keeps the chosen answer likely, where DPO may not",
    formula: "softplus(-r_chosen) + (softplus(r_chosen) + softplus(r_rejected)) / 2, r = beta * log_ratio",
    when: "Chosen answers must not become less likely, e.g. for maths and code.",
    knobs: &[knobs::BETA],
    build: |knobs| Loss::Pair(Box::new(NcaPair { beta: knobs.number("beta") })),
    ..LossSpec::PAIRS
};

/// `loss = softplus(-r_chosen) + (softplus(r_chosen) + softplus(r_rejected)) / 2`, `r = beta * log_ratio`.
///
/// Source: arXiv 2402.05369 (its experiments use `beta` 0.01). With one answer of the pair alone the minimum is at `r = ln 2`.
struct NcaPair {
    beta: f64,
}

impl PairLoss for NcaPair {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let (chosen, rejected) = (self.beta * pair.chosen.log_ratio(), self.beta * pair.rejected.log_ratio());
        (-chosen).softplus() + 0.5 * (chosen.softplus() + rejected.softplus())
    }
}
