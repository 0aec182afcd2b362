//! The hinge loss of RSO.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "hinge",
    aliases: &["rso"],
    margin: true,
    source: "arXiv 2309.06657, hinge-norm",
    summary: "Pushes the reward margin up to 1 with constant force, then leaves the pair alone",
    formula: "max(0, 1 - m), m = beta * log_ratio_margin - margin",
    when: "Pairs that are already well ordered should stop mattering. It is what surveys print as SLiC; slic is SLiC-HF, which has \
           no reference.",
    knobs: &[knobs::BETA],
    build: hinge,
    ..LossSpec::MARGINS
};

/// `loss = max(0, 1 - (beta * log_ratio_margin - margin))`.
///
/// Source: arXiv 2309.06657, "hinge-norm"; `beta` is its gamma. This loss is often called SLiC, but SLiC-HF has no reference in
/// its margin.
fn hinge(knobs: &Knobs) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| (1.0 - pair.reward_margin(beta)).relu())
}
