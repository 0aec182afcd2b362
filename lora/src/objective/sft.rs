//! Supervised fine-tuning, which makes texts more likely.

use super::knobs;
use super::loss::{Loss, Reduction};
use super::spec::LossSpec;
use align_data::RowKind;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "sft",
    data: RowKind::Sequence,
    reference: false,
    source: "maximum likelihood",
    summary: "Cross-entropy of the answers, or of whole texts: the step before alignment; in a mix, of the chosen answers",
    formula: "-ln policy(tokens), per token of the batch",
    when: "First: the model should know the format and the domain before it learns preferences.",
    knobs: &[knobs::SFT_REDUCTION],
    modifiers: &[],
    build: |knobs| Loss::Sft(Reduction::named(knobs.choice("sft_reduction"))),
    ..LossSpec::PAIRS
};
