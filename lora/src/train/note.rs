//! What a run tells its user while it runs. Each note is sent once. Notes are facts; the command line puts them into words.

use super::reference_cache::{CacheCounts, CacheNote};
use crate::objective::Unlearned;

/// Something that the user of a run should know. A note never ends a run.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variants' lines name their fields")]
pub enum Note {
    /// The last batch of each epoch would be one row, which `loss` cannot use.
    LastRowLeftOut { loss: String },
    /// Evaluations leave out the term of `loss` that reads the reference data.
    TermNotEvaluated { loss: String },
    /// All rows of the `role` data have the same prompt, so the mismatched answers that `loss` reads are answers to that prompt
    /// too.
    OnePrompt { role: DataRole, loss: String },
    /// `rows` rows have a `column` that `loss` does not read.
    UnreadColumn { column: &'static str, rows: usize, loss: String },
    /// A forward pass of `step` needs more memory than planned, even with all layers recomputed. Only the first such step is
    /// reported.
    BeyondPlan { step: u64 },
    /// `counts` says how many log-probs of the reference were read and how many were computed, in the part of the run that `of`
    /// names.
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

/// The part of a run that [`Note::CacheCounts`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsOf {
    /// The first epoch alone.
    FirstEpoch,
    /// All epochs.
    Run,
}
