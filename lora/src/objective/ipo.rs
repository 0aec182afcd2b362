//! IPO: a finite target for the margin.

use super::knobs::{self, Knob, KnobValue};
use super::loss::{Loss, Pair, PairLoss};
use super::spec::{LossSpec, Preset};
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "ipo",
    presets: &[Preset { name: "ipo_sum", sets: &[("length_norm", KnobValue::Switch(false))], ..Preset::PLAIN }],
    source: "arXiv 2310.12036, eq. 17",
    summary: "Squared distance of the log-ratio margin from 1 / (2 beta): no push beyond the target",
    formula: "(h - 1 / (2 beta))^2, h the margin of the log-ratios per token",
    when: "DPO overfits: few pairs, or preferences that are nearly certain.",
    knobs: &[
        Knob { help: "The paper's tau: the log-ratio margin is pulled to 1 / (2 beta)", ..knobs::BETA },
        Knob::switch(
            "length_norm",
            "no-length-norm",
            "Take log-probs as sums over the answer, not as means per token",
            true,
        ),
    ],
    build: |knobs| {
        let log_prob = if knobs.switch("length_norm") { LogProb::MeanPerToken } else { LogProb::Sum };
        Loss::Pair(Box::new(Ipo { beta: knobs.number("beta"), log_prob }))
    },
    ..LossSpec::PAIRS
};

/// `loss = (h - 1 / (2 beta))^2`, `h` the log-ratio margin.
///
/// Source: arXiv 2310.12036, eq. 17, whose tau is `beta`. Log-probs are means per token, as in TRL (which cites the authors),
/// HALOs and LLaMA-Factory. With sums, as in the DPO authors' code and OpenRLHF, `1 / (2 beta)` would mean a different distance
/// for every answer length.
struct Ipo {
    beta: f64,
    log_prob: LogProb,
}

enum LogProb {
    MeanPerToken,
    Sum,
}

impl PairLoss for Ipo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let margin = match self.log_prob {
            LogProb::MeanPerToken => pair.mean_log_ratio_margin(),
            LogProb::Sum => pair.log_ratio_margin(),
        };
        (margin - 1.0 / (2.0 * self.beta)).square()
    }
}
