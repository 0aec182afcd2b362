//! DPO, and its variants under other names: with label smoothing, a likelihood term, weights of pairs, a smaller weight on the
//! longer answer's tail, or another f-divergence.

use super::knobs::{self, KnobValue, Knobs};
use super::loss::{Loss, smoothed_log_loss};
use super::spec::{LossSpec, Preset};

pub(super) const SPEC: LossSpec = LossSpec {
    name: "dpo",
    aliases: &["sigmoid", "spin"],
    presets: &[
        Preset { name: "cdpo", requires: &["label_smoothing"], ..Preset::PLAIN },
        Preset {
            name: "rpo",
            aliases: &["dpo+sft"],
            defaults: &[("sft_weight", KnobValue::Number(0.2)), ("sft_reduction", KnobValue::Choice("seq_mean"))],
            requires: &["sft_weight"],
            source: Some("arXiv 2405.16436"),
            ..Preset::PLAIN
        },
        Preset {
            name: "wpo",
            sets: &[("use_weighting", KnobValue::Switch(true))],
            defaults: &[("beta", KnobValue::Number(0.01))],
            source: Some("arXiv 2406.11827, eq. 2"),
            ..Preset::PLAIN
        },
        Preset {
            name: "ld_dpo",
            defaults: &[("ld_alpha", KnobValue::Number(0.5))],
            requires: &["ld_alpha"],
            source: Some("arXiv 2409.06411, eq. 11 and 12"),
            ..Preset::PLAIN
        },
        Preset {
            name: "f_forward_kl",
            sets: &[("f_divergence", KnobValue::Choice("forward_kl"))],
            source: Some("arXiv 2309.16240"),
            ..Preset::PLAIN
        },
        Preset {
            name: "f_js",
            sets: &[("f_divergence", KnobValue::Choice("js_divergence"))],
            source: Some("arXiv 2309.16240"),
            ..Preset::PLAIN
        },
        Preset {
            name: "f_alpha",
            sets: &[("f_divergence", KnobValue::Choice("alpha_divergence"))],
            source: Some("arXiv 2309.16240"),
            ..Preset::PLAIN
        },
    ],
    margin: true,
    source: "arXiv 2305.18290, eq. 7",
    summary: "Log-loss of a classifier that ranks the pair by its rewards",
    formula: "log-loss of m, m = beta * log_ratio_margin - margin",
    when: "Start here: pairs from any source whose chosen answer is better.",
    knobs: &[knobs::BETA, knobs::LABEL_SMOOTHING],
    build: dpo,
    ..LossSpec::MARGINS
};

/// `loss = -(1 - e) ln sigmoid(m) - e ln sigmoid(-m)`, `m = beta * log_ratio_margin - margin`, `e = label_smoothing`.
///
/// Source: arXiv 2305.18290, eq. 7; the smoothed form is eq. 3 of the authors' note on conservative DPO, lowest at
/// `sigmoid(m) = 1 - e`. TRL from 0.29 on ignores label smoothing for this loss; the authors' code, HALOs, OpenRLHF and
/// LLaMA-Factory apply it, and so does this program.
fn dpo(knobs: &Knobs) -> Loss {
    let [beta, label_smoothing] = knobs.numbers(["beta", "label_smoothing"]);
    Loss::of_pair(move |pair| smoothed_log_loss(pair.reward_margin(beta), label_smoothing))
}
