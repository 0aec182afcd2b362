//! A run within a test: its options, and who watches it.

use align_data::Shuffle;
use align_kernels::Precision;
use align_kernels::device::MemoryReport;
use align_lora::optim::{OptimizerKind, ScheduleKind, Warmup};
use align_lora::train::{EvalMetrics, Note, Observer, Plan, StepMetrics, TrainError, TrainOptions, TrainState};

/// What a plan may be above what is held at most, packing apart.
pub(crate) const TOLERANCE: f64 = 0.02;

/// One epoch of plain training in f32.
pub(crate) fn options() -> TrainOptions {
    TrainOptions {
        learning_rate: 1e-4,
        schedule: ScheduleKind::Constant,
        warmup: Warmup::Steps(0),
        optimizer: OptimizerKind::default(),
        weight_decay: 0.0,
        max_grad_norm: 1.0,
        epochs: 1,
        max_steps: None,
        max_completions: None,
        batch_size: 8,
        micro_batch_tokens: 4096,
        max_length: 256,
        lora_dropout: 0.0,
        seed: 1,
        shuffle: Shuffle::Seeded(1),
        eval_steps: None,
        precision: Precision::F32,
        logp_temperature: 1.0,
        memory: None,
    }
}

/// Keeps what a run notes.
#[derive(Default)]
pub(crate) struct Notes(pub Vec<Note>);

impl Observer for Notes {
    fn step(&mut self, _: &StepMetrics) -> Result<(), TrainError> {
        Ok(())
    }
    fn evaluation(&mut self, _: &EvalMetrics) -> Result<(), TrainError> {
        Ok(())
    }
    fn epoch(&mut self, _: &TrainState) -> Result<(), TrainError> {
        Ok(())
    }
    fn note(&mut self, note: Note) {
        self.0.push(note);
    }
}

impl Notes {
    /// Whether a pass of the run held more than was planned.
    pub(crate) fn are_beyond_plan(&self) -> bool {
        self.0.iter().any(|note| matches!(note, Note::BeyondPlan { .. }))
    }
}

/// Checks that a plan is not below what was held at most, and near to it. How much the threads had packed when their device held
/// the most is a matter of chance, and cached log-probs are in no report of a device: neither is compared with the blocks.
pub(crate) fn is_held(what: &str, plan: &Plan, held: &MemoryReport) {
    let Plan { peak, parts, .. } = plan;
    let part = |part: &str| parts.iter().find(|(name, _)| *name == part).map_or(0, |(_, bytes)| *bytes);
    let packing = part("packing");
    let blocks = peak - packing - part("cached reference log-probs");
    let above = blocks as f64 / held.blocks_peak as f64 - 1.0;
    let what = format!("{what}: planned {peak} ({parts:?}), {above:.4} above {held:?}");
    assert!(
        held.packed.peak as u64 <= packing && held.peak as u64 <= *peak && (0.0..=TOLERANCE).contains(&above),
        "{what}"
    );
    assert_eq!(*peak, parts.iter().map(|(_, bytes)| bytes).sum::<u64>(), "{what}");
}
