//! IPO: a finite target for the margin.

use super::knobs::{self, Knob, KnobValue, Knobs};
use super::loss::Loss;
use super::spec::{LossSpec, Preset};

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
    build: ipo,
    ..LossSpec::PAIRS
};

/// `loss = (h - 1 / (2 beta))^2`, `h` the margin of the log-ratios, per token unless `length_norm` is off.
///
/// Source: arXiv 2310.12036, eq. 17, whose tau is `beta`. By default, log-probs are means per token, as in TRL (which cites the
/// authors), HALOs and LLaMA-Factory. With sums, as in the DPO authors' code and OpenRLHF, `1 / (2 beta)` would mean a different
/// distance for every answer length.
fn ipo(knobs: &Knobs) -> Loss {
    let target = 1.0 / (2.0 * knobs.number("beta"));
    match knobs.switch("length_norm") {
        true => Loss::of_pair(move |pair| (pair.mean_log_ratio_margin() - target).square()),
        false => Loss::of_pair(move |pair| (pair.log_ratio_margin() - target).square()),
    }
}
