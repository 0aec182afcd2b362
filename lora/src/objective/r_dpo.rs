//! Length-regularised DPO.

use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "r_dpo",
    margin: true,
    source: "arXiv 2403.19159",
    summary: "DPO of a reward that charges for length: a longer chosen answer needs less margin",
    formula: "-ln sigmoid(beta * log_ratio_margin + alpha * (tokens chosen - tokens rejected) - margin)",
    when: "DPO makes answers longer.",
    knobs: &[knobs::BETA, Knob::number("alpha", "alpha", "What a token costs", 0.01, Range::NOT_NEGATIVE)],
    build: |knobs| Loss::Pair(Box::new(RDpo { beta: knobs.number("beta"), alpha: knobs.number("alpha") })),
    ..LossSpec::MARGINS
};

/// `loss = -ln sigmoid(beta * log_ratio_margin + alpha * (tokens of chosen - tokens of rejected))`.
///
/// Source: arXiv 2403.19159. The sign follows from a reward that loses `alpha` per token. The alpha-DPO authors have the
/// opposite sign.
struct RDpo {
    beta: f64,
    alpha: f64,
}

impl PairLoss for RDpo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (-(pair.reward_margin(self.beta) + self.alpha * (pair.chosen.len - pair.rejected.len))).softplus()
    }
}
