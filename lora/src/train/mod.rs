//! Training: from encoded rows to an adapter.
//!
//! | file | holds |
//! |---|---|
//! | `forest.rs` | rows of a forward pass: trees of prompts and answers, policy and reference |
//! | `scoring.rs` | one forward pass, log-probs per answer, and its backward pass |
//! | `reference_cache/` | log-probs of the reference, computed once and looked up afterwards |
//! | `reference_texts.rs` | texts of a reference corpus, for losses with a term for their likelihood |
//! | `plan.rs` | the passes of a step, from lengths alone |
//! | `completions.rs` | which of a row's scored answers an epoch uses |
//! | `columns.rs` | columns that a loss requires |
//! | `step.rs` | runs the plan of an optimiser batch: passes, the objective's head, gradients |
//! | `options.rs` | the options of a run, its state, and the trait that receives its reports |
//! | `note.rs` | what a run tells its user while it runs |
//! | `planning.rs` | predicts a run: its steps, memory and pace |
//! | `trainer.rs` | epochs, batches, updates |
//! | `evaluation.rs` | loss and rewards over a data set |
//! | `metrics.rs` | what is reported, under TRL's names |
//! | `steps.rs` | which steps may have the largest pass, from the lengths of their rows |
//! | `counted.rs` | what a pass holds and computes, by running it on a device that counts |
//! | `budget.rs` | what a run will hold, and how many layers keep their activations |
//! | `pace.rs` | how long a step will take |
//! | `size.rs` | amounts of memory, parsed and displayed |
//! | `error.rs` | why a run cannot start or go on |

mod budget;
mod columns;
mod completions;
mod counted;
mod error;
mod evaluation;
mod forest;
mod metrics;
mod note;
mod options;
mod pace;
mod plan;
mod planning;
mod reference_cache;
mod reference_texts;
mod scoring;
mod size;
mod step;
mod steps;
mod trainer;

pub use budget::{Plan, SHARE};
pub use counted::{Gradients, PassCost};
pub use error::TrainError;
pub use evaluation::{EvalBatches, evaluate, one_prompt};
pub use forest::{Branch, Forest, Role, Scored, Scorers, Tree};
pub use metrics::{EvalMetrics, PreferenceSums, Preferences, StepMetrics};
pub use note::{CountsOf, DataRole, Note};
pub use options::{Observer, TrainOptions, TrainState};
pub use pace::{Pace, RunPace};
pub use plan::{PassPlan, Piece, RowTokens, StepPlan};
pub use reference_cache::{CacheCounts, CacheError, CacheNote, CachePlace, ReferenceCache};
pub use scoring::{Forward, Scoring, StepDropout, TreeOfStep};
pub use size::{NotASize, Size};
pub use step::{Batch, Donors, Outcome};
pub use trainer::{Trainer, Update};
