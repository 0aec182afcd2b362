//! From a record to token ids: one prompt, and for each answer the tokens after it.

use serde_json::Value;

use super::BadRow;

/// A row as the model sees it: the prompt once, and the answers that continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedRow {
    /// 0-based number of the record over all files. The two rows made from one pair have the same number.
    pub row: usize,
    /// The row's `id`, echoed in outputs.
    pub id: Option<Value>,
    /// Token ids that all answers share: at least one, and fewer than `max_length`.
    pub prompt: Vec<u32>,
    /// The answers, in the order of the data (chosen, rejected).
    pub answers: Vec<Answer>,
    /// What the data says about the answers.
    pub target: Target,
}

impl EncodedRow {
    /// Tokens of the row's tree: the prompt once, and what is kept of every answer.
    pub fn tree_tokens(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(|a| a.kept).sum::<usize>()
    }
}

/// The tokens of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// All completion ids, at least one, also those that `max_length` cuts (KTO's mismatched answers start from them).
    pub ids: Vec<u32>,
    /// How many of them, from the start, fit behind the prompt: at least one.
    pub kept: usize,
}

impl Answer {
    /// The ids that are scored.
    pub fn kept_ids(&self) -> &[u32] {
        &self.ids[..self.kept]
    }

    /// Whether `max_length` cut the end off.
    pub fn is_cut(&self) -> bool {
        self.kept < self.ids.len()
    }
}

/// What the data says about the answers of an encoded row.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Two answers: the first is preferred.
    Pair,
    /// One answer: desirable or not.
    Label(bool),
    /// One number an answer, larger is better.
    Rewards(Vec<f64>),
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// It will be used.
    Kept(EncodedRow),
    /// It will not, for this reason.
    Dropped {
        /// 0-based number of the record over all files.
        row: usize,
        /// The row's `id`.
        id: Option<Value>,
        /// Why.
        reason: DropReason,
    },
}

/// Why a record is not used. Its text is what `score` prints for the row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// The prompt alone reaches `max_length`: no answer token would be left.
    #[error("the prompt has {prompt_tokens} tokens, max-length {max_length} leaves no room for an answer")]
    NoRoom {
        /// Tokens of the shared prompt.
        prompt_tokens: usize,
        /// The limit on prompt + one answer.
        max_length: usize,
    },
    /// There is no prompt token from which the first answer token could be predicted.
    #[error("the prompt has no token: nothing predicts the first token of the answer")]
    NoPrompt,
    /// The row is bad, and the run was told to skip such rows.
    #[error("{0}")]
    Bad(BadRow),
}
