//! Binary classifier optimisation on pairs.

use super::history::History;
use super::knobs::{self, Knob};
use super::loss::{Loss, Pair, PairBatchLoss, Statistics};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "bco_pair",
    source: "arXiv 2404.04656",
    summary: "Two classifiers, one for each answer: chosen rewards above a shift, rejected ones below",
    formula: "softplus(-(r_chosen - d)) + softplus(r_rejected - d), r = beta * log_ratio, d = 0 or the running mean of r",
    when: "The answers of a pair are good and bad, but not comparable with each other.",
    knobs: &[knobs::BETA, DELTA],
    build: |knobs| {
        let beta = knobs.number("beta");
        match knobs.choice("bco_delta") {
            "running" => Loss::PairBatch(Box::new(Shifted { beta })),
            "zero" => Loss::of_pair(move |pair| shifted(pair, beta, 0.0)),
            other => unreachable!("the knob accepts no `{other}`"),
        }
    },
    ..LossSpec::PAIR_BATCHES
};

/// The knob that sets BCO's shift.
pub(super) const DELTA: Knob = Knob::choice(
    "bco_delta",
    "bco-delta",
    "BCO's shift of the rewards: zero, or the running mean of all of them so far",
    "zero",
    &["zero", "running"],
);

/// The loss with a running shift `d`: the mean of `r = beta * log_ratio` over every answer so far, this batch included. `d` has
/// no gradient.
///
/// Source: arXiv 2404.04656. TRL up to 0.28 and LLaMA-Factory use the mean of the batches' means instead.
struct Shifted {
    beta: f64,
}

impl PairBatchLoss for Shifted {
    fn statistics(&self, pairs: &[Pair<'_>], history: &History) -> Statistics {
        let rewards =
            |pair: &Pair<'_>| [pair.chosen, pair.rejected].map(|answer| self.beta * answer.log_ratio().value());
        let history = history.with_rewards(pairs.iter().flat_map(rewards));
        Statistics::new([("delta", history.rewards.mean())]).remembering(history)
    }

    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>> {
        pairs.iter().map(|pair| shifted(pair, self.beta, statistics.get("delta"))).collect()
    }
}

/// `loss = softplus(-(r_chosen - d)) + softplus(r_rejected - d)`, `r = beta * log_ratio`, `d` the shift.
///
/// Source: arXiv 2404.04656. TRL from 0.29 on and Liger leave the shift out.
fn shifted<'t>(pair: &Pair<'t>, beta: f64, delta: f64) -> Scalar<'t> {
    let (chosen, rejected) = (beta * pair.chosen.log_ratio() - delta, beta * pair.rejected.log_ratio() - delta);
    (-chosen).softplus() + rejected.softplus()
}
