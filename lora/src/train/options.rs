//! The options of a run, its state, and the trait that receives what it reports.

use super::error::TrainError;
use super::metrics::{EvalMetrics, StepMetrics};
use super::note::Note;
use super::reference_cache::CacheCounts;
use crate::objective::{History, UnlearnedCounts};
use crate::optim::{OptimizerKind, ScheduleKind, Warmup};
use align_data::Shuffle;
use align_kernels::Precision;
use serde::{Deserialize, Serialize};

/// The options of a run. The options of the objective are its knobs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// The largest learning rate of the schedule.
    pub learning_rate: f64,
    /// How the rate changes after the warm-up.
    pub schedule: ScheduleKind,
    /// How long the rate grows at the start.
    pub warmup: Warmup,
    /// What turns gradients into updates.
    pub optimizer: OptimizerKind,
    /// Strength of the weight decay, which is decoupled with AdamW and coupled with RMSProp. 0 turns it off.
    pub weight_decay: f64,
    /// If the global norm of the gradients is larger, they are scaled down to this. 0 or infinity turns that off.
    pub max_grad_norm: f64,
    /// How many times the run goes through the rows, unless `max_steps` ends it earlier.
    pub epochs: u64,
    /// Maximum number of updates of the run, even if its epochs have more. `None` for no limit.
    pub max_steps: Option<u64>,
    /// Maximum number of scored answers of a row that a step uses. They are chosen anew in each epoch. `None` for no limit.
    /// Evaluations use all answers.
    pub max_completions: Option<usize>,
    /// Data rows of an optimiser step.
    pub batch_size: usize,
    /// Maximum number of tokens in the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Maximum number of tokens of a prompt with one answer.
    pub max_length: usize,
    /// Probability with which an element of an adapter's input is dropped in training.
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
    /// Bytes that the run may hold beside the mapped weights. `None` for the share [`SHARE`](super::SHARE) of the free memory.
    /// The limit decides how many layers keep their activations and how many are recomputed. No bit of the result depends on it.
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
    /// Tokens so far. A prompt counts once for each of its answers.
    pub num_tokens: u64,
    /// Running statistics of the objective.
    pub history: History,
    /// Rows that taught the run nothing.
    pub unlearned: UnlearnedCounts,
    /// Forward passes that held more than was planned.
    pub beyond_plan: u64,
    /// How many updates had been made at the last evaluation. `None` before the first one.
    pub evaluated_at: Option<u64>,
    /// How many log-probs of the reference were read and how many computed in the first epoch. `None` until that epoch ends.
    pub counts_of_first_epoch: Option<CacheCounts>,
}

/// Receives what a run reports while it runs. The crate prints nothing itself.
pub trait Observer {
    /// Called after each step.
    ///
    /// # Errors
    /// Any error, for example from writing the metrics. It stops the run.
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrainError>;
    /// Called during an evaluation, when `rows` of its `all` rows are done.
    fn evaluating(&mut self, _rows: usize, _all: usize) {}
    /// Called after each evaluation.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError>;
    /// Called at the end of each epoch, so that the adapter and the state of the run can be saved.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn epoch(&mut self, state: &TrainState) -> Result<(), TrainError>;
    /// Receives something that the user should know. Each note comes once.
    fn note(&mut self, note: Note);
}
