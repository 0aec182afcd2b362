//! What can stop a run.

use super::size::Size;
use crate::adapter::AdapterError;
use align_data::DataError;
use align_kernels::KernelError;
use std::path::PathBuf;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TrainError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A loss, gradient or log-prob that is NaN or infinite.
    #[error(
        "step {step}: {what} is not finite; rows of the batch: {rows}. The adapter of the last step is not written over"
    )]
    NonFinite { step: u64, what: String, rows: String },
    /// A loss or log-prob of an evaluation that is NaN or infinite.
    #[error("evaluation: {what} is not finite; rows of the batch: {rows}")]
    NonFiniteEvaluation { what: String, rows: String },
    #[error("loss `{loss}` compares each answer with another row's, and the data has one usable row: give at least 2")]
    OneRow { loss: String },
    #[error("loss `{loss}` reads no scored answers")]
    NoCompletions { loss: String },
    #[error("loss `{loss}` compares each answer with another row's, and a batch of one has no other row")]
    BatchOfOne { loss: String },
    #[error("loss `{loss}` has a term for the likelihood of a reference corpus, and there is none")]
    NoReferenceData { loss: String },
    #[error("loss `{loss}` trains a reward model, and the adapter has no score head")]
    NoScoreHead { loss: String },
    #[error("loss `{loss}` reads log-probs, and the adapter has the score head of a reward model")]
    ScoreHead { loss: String },
    #[error("{row} has no `{column}`, which loss `{loss}` reads: give each row one, or take another loss")]
    MissingColumn { row: String, loss: String, column: &'static str },
    #[error("{rows} usable rows in {epochs} epochs make no step")]
    NoSteps { rows: usize, epochs: u64 },
    /// The planned run would hold more than the limit, even with all layers recomputed. `micro_batch_tokens` and `max_length` are
    /// options of the run.
    #[error(
        "the run needs {} of memory for what it computes, even with all layers recomputed, and may hold {}; its largest \
         forward pass has {tokens} tokens",
        .needed.rounded(f64::ceil), .limit.rounded(f64::floor)
    )]
    Memory { needed: Size, limit: Size, tokens: usize, micro_batch_tokens: usize, max_length: usize },
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}
