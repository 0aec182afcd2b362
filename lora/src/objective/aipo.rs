//! AIPO: DPO with a reference that counts more than once, and a likelihood term, for iterated self-training.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "aipo",
    margin: true,
    source: "arXiv 2409.08845, eq. 6, 10 and 11",
    summary: "Agreement-aware iterative preference optimisation: the reference's margin counts 1 + alpha times",
    formula: "-ln sigmoid(beta * (h - (1 + alpha) h_reference) - margin) - lambda * chosen log-prob per token, h and h_reference the margins of the \
              log-probs",
    when: "Iterated training on the model's own answers, which DPO makes longer each time.",
    knobs: &[
        knobs::BETA,
        Knob::number("alpha", "alpha", "Weight of the reference's margin beyond 1", 0.05, Range::NOT_NEGATIVE),
        Knob::number("lambda", "lambda", "Weight of the chosen answers' likelihood", 0.2, Range::NOT_NEGATIVE),
    ],
    modifiers: &[],
    build: aipo,
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * (h - (1 + alpha) h_reference) - margin) - lambda * policy(chosen) / tokens`. `h` and `h_reference`
/// are the margins of the summed log-probs of the policy and of the reference.
///
/// Source: arXiv 2409.08845, eq. 6, 10 and 11.
fn aipo(knobs: &Knobs) -> Loss {
    let [beta, alpha, lambda] = knobs.numbers(["beta", "alpha", "lambda"]);
    Loss::of_pair(move |pair| {
        let reference = (1.0 + alpha) * (pair.chosen.reference - pair.rejected.reference);
        let x = beta * ((pair.chosen.policy - pair.rejected.policy) - reference);
        (-pair.beyond_margin(x)).softplus() - lambda * pair.chosen.mean_logp()
    })
}
