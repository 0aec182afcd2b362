//! AIPO: DPO with a reference that counts more than once, and a likelihood term, for iterated self-training.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

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
        Knob::number(
            "alpha",
            "alpha",
            "How much more than once the reference's margin counts",
            0.05,
            Range::NOT_NEGATIVE,
        ),
        Knob::number("lambda", "lambda", "Weight of the chosen answer's likelihood", 0.2, Range::NOT_NEGATIVE),
    ],
    modifiers: &[],
    build: |knobs| {
        let [beta, alpha, lambda] = ["beta", "alpha", "lambda"].map(|key| knobs.number(key));
        Loss::Pair(Box::new(Aipo { beta, alpha, lambda }))
    },
    ..LossSpec::PAIRS
};

/// `loss = -ln sigmoid(beta * (h - (1 + alpha) h_reference)) - lambda * policy(chosen) / tokens`, `h` the margins of the summed
/// log-probs.
///
/// Source: arXiv 2409.08845, eq. 6, 10 and 11.
struct Aipo {
    beta: f64,
    alpha: f64,
    lambda: f64,
}

impl PairLoss for Aipo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let reference = (1.0 + self.alpha) * (pair.chosen.reference - pair.rejected.reference);
        let x = self.beta * ((pair.chosen.policy - pair.rejected.policy) - reference);
        (-pair.beyond_margin(x)).softplus() - self.lambda * pair.chosen.mean_logp()
    }
}
