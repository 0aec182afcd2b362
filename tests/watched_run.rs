//! Options and an observer for runs within a test.

use align_data::Shuffle;
use align_kernels::Precision;
use align_kernels::device::MemoryReport;
use align_lora::optim::{OptimizerKind, ScheduleKind, Warmup};
use align_lora::train::{EvalMetrics, Note, Observer, Plan, StepMetrics, TrainError, TrainOptions, TrainState};

/// Largest share by which a plan may exceed the most memory that the run held, packing left out.
pub(crate) const TOLERANCE: f64 = 0.02;

/// Returns options for one epoch of plain training in f32.
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

/// Keeps the notes of a run.
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

/// Checks that a plan is not below the most memory that was held, and at most [`TOLERANCE`] above it. Two parts are left out of
/// this comparison: packing, since how much the threads had packed when the device held the most is a matter of chance, and
/// cached log-probs, which no report of a device has.
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
