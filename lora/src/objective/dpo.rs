//! DPO, and with label smoothing conservative DPO.

use super::knobs::{self, Knob, KnobKind, Range};
use super::loss::{DataKind, Loss, LossSpec, Pair, PairLoss, Preset};
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "dpo",
    aliases: &["sigmoid", "spin"],
    presets: &[Preset { name: "cdpo", sets: &[], requires: &["label_smoothing"] }],
    data: DataKind::Pairs,
    reference: true,
    source: "arXiv 2305.18290, eq. 7",
    summary: "Log-loss of a classifier that ranks the pair by its rewards",
    knobs: &[
        knobs::BETA,
        Knob {
            key: "label_smoothing",
            flag: "label-smoothing",
            flag_aliases: &[],
            help: "Share of pairs taken to be labelled the wrong way round",
            kind: KnobKind::Number { default: Some(0.0), range: Range::half_open(0.0, 0.5) },
            replaces: None,
        },
    ],
    build: |knobs| {
        Loss::Pair(Box::new(Dpo { beta: knobs.number("beta"), label_smoothing: knobs.number("label_smoothing") }))
    },
};

/// `loss = -(1 - e) ln sigmoid(m) - e ln sigmoid(-m)`, `m = beta * log_ratio_margin`, `e = label_smoothing`.
///
/// Source: arXiv 2305.18290, eq. 7; the smoothed form is eq. 3 of the authors' note on conservative DPO, lowest at
/// `sigmoid(m) = 1 - e`. TRL from 0.29 on ignores label smoothing for this loss; the authors' code, HALOs, OpenRLHF and
/// LLaMA-Factory apply it, and so does this.
struct Dpo {
    beta: f64,
    label_smoothing: f64,
}

impl PairLoss for Dpo {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let reward_margin = self.beta * pair.log_ratio_margin();
        (1.0 - self.label_smoothing) * (-reward_margin).softplus() + self.label_smoothing * reward_margin.softplus()
    }
}
