//! Counts of rows that are left out, by the kind of reason.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::bad_row::BadRow;
use crate::tokens::encode::DropReason;

/// Rows left out for one kind of reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The kind in a few words.
    pub label: String,
    /// The kind of the reason.
    pub kind: DropKind,
    /// Number of rows left out for this kind of reason.
    pub rows: usize,
    /// The reason of the first of these rows, in full.
    pub first: String,
    /// The file of the first row.
    pub path: PathBuf,
    /// The 1-based line of the first row; in Parquet, its 1-based row.
    pub line: u64,
}

/// Kinds of reasons to leave rows out. Each kind needs a different remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DropKind {
    /// The rows are too long.
    Length,
    /// The rows have no token before the first one that would be scored.
    Prompt,
    /// The rows have no prompt column, and lack the turn marker that nearly all other rows have.
    Marker,
    /// All answers of a row have the same score, so no pair can be made of them.
    NoPair,
    /// The rows are bad, and the user asked to skip bad rows.
    Bad,
}

impl DropReason {
    /// Returns the kind of reason in a few words, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            DropReason::NoRoom { .. } => "prompt fills max-length",
            DropReason::AnswerTooLong { .. } => "answer longer than max-length",
            DropReason::NoPrompt => "prompt without a token",
            DropReason::NoPair => "scored answers without a pair",
            DropReason::NothingScored => "nothing to score",
            DropReason::Bad(reason) => reason.label(),
        }
    }

    pub(crate) fn kind(&self) -> DropKind {
        match self {
            DropReason::NoRoom { .. } | DropReason::AnswerTooLong { .. } => DropKind::Length,
            DropReason::NoPrompt | DropReason::NothingScored => DropKind::Prompt,
            DropReason::NoPair => DropKind::NoPair,
            DropReason::Bad(BadRow::NoTurnMarker { marker: Some(_), .. }) => DropKind::Marker,
            DropReason::Bad(_) => DropKind::Bad,
        }
    }
}
