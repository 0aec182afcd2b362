//! DPO whose expected loss under flipped labels equals the loss under true ones.

use super::knobs::{self, Knob, Knobs, Range};
use super::loss::Loss;
use super::spec::LossSpec;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "robust",
    aliases: &["robust_dpo"],
    margin: true,
    source: "arXiv 2403.00409",
    summary: "DPO made unbiased for a known share of flipped labels",
    formula: "(-(1 - e) ln sigmoid(m) + e ln sigmoid(-m)) / (1 - 2 e), e = label_smoothing, m = beta * log_ratio_margin - margin",
    when: "Labels are noisy and the share of flipped ones is known; the loss has no lower bound, so its value says little.",
    knobs: &[
        knobs::BETA,
        Knob::number(
            "label_smoothing",
            "label-smoothing",
            "Share of pairs whose label is flipped",
            0.1,
            Range::half_open(0.0, 0.5),
        ),
    ],
    build: robust,
    ..LossSpec::MARGINS
};

/// `loss = (-(1 - e) ln sigmoid(m) + e ln sigmoid(-m)) / (1 - 2 e)`, `m = beta * log_ratio_margin - margin`,
/// `e = label_smoothing`.
///
/// Source: arXiv 2403.00409. The loss falls without bound as the log-ratio margin grows. Its derivative with respect to that
/// margin does not vanish but approaches `-beta e / (1 - 2 e)`.
fn robust(knobs: &Knobs) -> Loss {
    let [beta, flipped] = knobs.numbers(["beta", "label_smoothing"]);
    Loss::of_pair(move |pair| {
        let m = pair.reward_margin(beta);
        ((1.0 - flipped) * (-m).softplus() - flipped * m.softplus()) / (1.0 - 2.0 * flipped)
    })
}
