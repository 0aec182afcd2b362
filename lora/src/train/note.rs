//! What a run tells its user on its way, once. Facts: the words are the command line's.

use super::reference_cache::{CacheCounts, CacheNote};
use crate::objective::Unlearned;

/// Something that the user of a run should know. No run ends because of one.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variants' lines name their fields")]
pub enum Note {
    /// The last batch of each epoch would be one row, which `loss` cannot use.
    LastRowLeftOut { loss: String },
    /// Evaluations leave out the term of `loss` that reads the reference data.
    TermNotEvaluated { loss: String },
    /// All rows of the `role` data have one prompt, so the mismatched answers of `loss` answer it too.
    OnePrompt { role: DataRole, loss: String },
    /// `rows` rows have a `column` that `loss` does not read.
    UnreadColumn { column: &'static str, rows: usize, loss: String },
    /// A forward pass of `step` holds more than was planned, with all layers recomputed. Told of the first such step.
    BeyondPlan { step: u64 },
    /// `counts` says how the log-probs of the reference were obtained in that part `of` the run.
    CacheCounts { of: CountsOf, counts: CacheCounts },
    /// Something about the reference cache.
    Cache(CacheNote),
    /// `loss` learned nothing from some of `rows` rows: `unlearned` says how many and why.
    Unlearned { unlearned: Unlearned, rows: u64, loss: String },
}

/// What a data set of a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    /// Rows to train on.
    Training,
    /// Rows to evaluate on.
    Evaluation,
}

/// Over which part of a run answers are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsOf {
    /// The first epoch alone.
    FirstEpoch,
    /// All epochs.
    Run,
}
