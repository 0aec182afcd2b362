//! Noise contrastive alignment on pairs.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "nca_pair",
    source: "arXiv 2402.05369, NCA with two answers and rewards of 1 and 0",
    summary: "Pulls the chosen reward to ln 2 and pushes the rejected one down: keeps the chosen answer likely, where DPO may not",
    formula: "softplus(-r_chosen) + (softplus(r_chosen) + softplus(r_rejected)) / 2, r = beta * log_ratio",
    when: "Chosen answers must not become less likely, e.g. for maths and code.",
    knobs: &[knobs::BETA],
    build: nca_pair,
    ..LossSpec::PAIRS
};

/// `loss = softplus(-r_chosen) + (softplus(r_chosen) + softplus(r_rejected)) / 2`, `r = beta * log_ratio`.
///
/// Source: arXiv 2402.05369 (its experiments use `beta` 0.01). The terms of the chosen answer are lowest at `r_chosen = ln 2`.
fn nca_pair(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| {
        let (chosen, rejected) = (beta * pair.chosen.log_ratio(), beta * pair.rejected.log_ratio());
        (-chosen).softplus() + 0.5 * (chosen.softplus() + rejected.softplus())
    })
}
