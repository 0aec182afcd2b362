//! What a run tells its user on its way, once. Facts: the words are the command line's.

use super::reference_cache::{CacheCounts, CacheNote};
use crate::objective::Unlearned;

/// Something that the user of a run should know. No run ends because of one.
#[derive(Debug)]
pub enum Note {
    /// The last batch of each epoch would be one row, which `loss` cannot use.
    LastRowLeftOut {
        loss: String,
    },
    /// Evaluations leave out the term of `loss` that reads the reference data.
    TermNotEvaluated {
        loss: String,
    },
    /// All rows have one prompt, so the mismatched answers of `loss` answer it too.
    OnePrompt {
        role: DataRole,
        loss: String,
    },
    /// `rows` rows have a column that `loss` does not read.
    UnreadColumn {
        column: &'static str,
        rows: usize,
        loss: String,
    },
    /// A forward pass of this step holds more than was planned, with all layers recomputed. Told of the first such step.
    BeyondPlan {
        step: u64,
    },
    /// How the log-probs of the reference were obtained so far.
    CacheCounts {
        of: CountsOf,
        counts: CacheCounts,
    },
    Cache(CacheNote),
    /// Nothing was learned from some of `rows` rows.
    Unlearned {
        unlearned: Unlearned,
        rows: u64,
        loss: String,
    },
}

/// What a data set of a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    Training,
    Evaluation,
}

/// Over which part of a run answers are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsOf {
    FirstEpoch,
    Run,
}
