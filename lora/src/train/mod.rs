//! Training: from encoded rows to an adapter.
//!
//! | file | holds |
//! |---|---|
//! | `forest.rs` | rows of a forward pass: trees of prompts and answers, policy and reference |
//! | `scoring.rs` | one forward pass, log-probs per answer, and its backward pass |
//! | `step.rs` | an optimiser batch: micro-batches, the objective's head, gradients |
//! | `trainer.rs` | epochs, updates, evaluations |
//! | `metrics.rs` | what is reported, under TRL's names |
//! | `memory.rs` | how many layers keep their activations |

mod error;
mod forest;
mod memory;
mod metrics;
mod scoring;
mod step;
mod trainer;

pub use error::TrainError;
pub use forest::{Branch, Forest, Role, Scored, Scorers, Tree};
pub use memory::{free_bytes, layers_kept};
pub use metrics::{EvalMetrics, PreferenceSums, Preferences, StepMetrics};
pub use scoring::{Forward, Scoring, StepDropout, TreeOfStep};
pub use step::{Batch, Outcome};
pub use trainer::{EvalBatches, Observer, TrainOptions, TrainState, Trainer, evaluate};
