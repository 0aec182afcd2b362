//! How a run trains, where it is, and what it tells.

use super::error::TrainError;
use super::metrics::{EvalMetrics, StepMetrics};
use super::note::Note;
use super::reference_cache::CacheCounts;
use crate::objective::{History, UnlearnedCounts};
use crate::optim::{OptimizerKind, ScheduleKind, Warmup};
use align_data::Shuffle;
use align_kernels::Precision;
use serde::{Deserialize, Serialize};

/// How a run trains. The objective has its own knobs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// The largest rate of the schedule.
    pub learning_rate: f64,
    /// How the rate falls after the warm-up.
    pub schedule: ScheduleKind,
    /// How long the rate grows at the start.
    pub warmup: Warmup,
    /// What turns gradients into updates.
    pub optimizer: OptimizerKind,
    /// Decoupled with AdamW, coupled with RMSProp; 0 for none.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm. 0 or infinity turns that off.
    pub max_grad_norm: f64,
    /// How often each row is trained on.
    pub epochs: u64,
    /// Ends the run earlier than its epochs.
    pub max_steps: Option<u64>,
    /// How many of a row's scored answers a step takes, chosen anew in each epoch. `None` for all. Evaluations take all.
    pub max_completions: Option<usize>,
    /// Data rows of an optimiser step.
    pub batch_size: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Limit on prompt + one answer.
    pub max_length: usize,
    /// Share of the adapters' inputs that is dropped while training.
    pub lora_dropout: f32,
    /// Seed of dropout and of the choice of `max_completions` answers. `shuffle` has its own seed.
    pub seed: u64,
    /// Order of the rows of an epoch.
    pub shuffle: Shuffle,
    /// Steps between evaluations. `None` to evaluate after each epoch.
    pub eval_steps: Option<u64>,
    /// Number format in which the matrix products multiply.
    pub precision: Precision,
    /// What the logits are divided by before their softmax, above 0.
    pub logp_temperature: f32,
    /// Bytes that the run may hold beside the mapped weights. `None` for [`SHARE`](super::SHARE) of what is free. It decides
    /// how many layers keep their activations and how many are recomputed. No bit of the result depends on it.
    pub memory: Option<u64>,
}

/// Where a run is: everything that changes except the adapter and the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct TrainState {
    /// Updates made.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Rows of the current epoch's order that have been used.
    pub cursor: u64,
    /// Tokens so far, the prompt counted once for each answer.
    pub num_tokens: u64,
    /// What the objective remembers.
    pub history: History,
    /// Rows that taught the run nothing.
    pub unlearned: UnlearnedCounts,
    /// Forward passes that held more than was planned.
    pub beyond_plan: u64,
    /// Updates at the last evaluation.
    pub evaluated_at: Option<u64>,
    /// How the log-probs of the reference were obtained in the first epoch, once it has ended.
    pub counts_of_first_epoch: Option<CacheCounts>,
}

/// Receives what a run tells while it runs. The crate prints nothing itself.
pub trait Observer {
    /// A step has ended.
    ///
    /// # Errors
    /// Any error stops the run, e.g. of writing the metrics.
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrainError>;
    /// `rows` of `all` rows of an evaluation are done.
    fn evaluating(&mut self, _rows: usize, _all: usize) {}
    /// An evaluation has ended.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError>;
    /// Called at the end of an epoch: a moment to save the adapter and the state of the run.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn epoch(&mut self, state: &TrainState) -> Result<(), TrainError>;
    /// Receives something that the user should know. Each note comes once.
    fn note(&mut self, note: Note);
}
