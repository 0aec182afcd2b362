//! Rows as the data module hands them to its users.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A row as the model sees it: the prompt once, and the answers that continue it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodedRow {
    /// 0-based number of the record over all files. The two rows made from one pair have the same number.
    pub row: usize,
    /// The row's `id`, echoed in outputs.
    #[serde(with = "crate::json_text")]
    pub id: Option<Value>,
    /// Token ids that all answers share: at least one, and fewer than `max_length`.
    pub prompt: Vec<u32>,
    /// The answers, in the order of the data (chosen, rejected).
    pub answers: Vec<Answer>,
    /// What the data says about the answers.
    pub target: Target,
    /// Numbers beside a pair.
    pub numbers: RowNumbers,
}

impl EncodedRow {
    /// Returns the number of tokens in the row's tree: the prompt once, and the kept tokens of every answer.
    pub fn tree_tokens(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(|a| a.kept).sum::<usize>()
    }
}

/// The tokens of one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// All completion ids, at least one, including those that `max_length` cuts (KTO's mismatched answers start from them).
    pub ids: Vec<u32>,
    /// How many ids, from the start, fit behind the prompt: at least one. The first and the last id that fit are scored.
    pub kept: usize,
    /// Ranges of ids that the model reads but that are not scored: ascending, not empty, not touching. Only sequences of several
    /// turns have any.
    pub unscored: Vec<Range<usize>>,
}

impl Answer {
    /// Returns the ids that the model reads: those that fit behind the prompt.
    pub fn kept_ids(&self) -> &[u32] {
        &self.ids[..self.kept]
    }

    /// Returns how many of [`Answer::kept_ids`] are scored: at least one.
    pub fn scored_tokens(&self) -> usize {
        self.kept - self.unscored.iter().map(|gap| gap.end.min(self.kept).saturating_sub(gap.start)).sum::<usize>()
    }

    /// Returns those of [`Answer::kept_ids`] that are scored.
    pub fn scored_ids(&self) -> impl Iterator<Item = u32> {
        let scored = |i: &usize| !self.unscored.iter().any(|gap| gap.contains(i));
        (0..self.kept).filter(scored).map(|i| self.ids[i])
    }

    /// Whether `max_length` cut the end off.
    pub fn is_cut(&self) -> bool {
        self.kept < self.ids.len()
    }
}

/// What the data says about the answers of a row. A prompt alone has no target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// Two answers: the first is preferred.
    Pair,
    /// One answer, and whether it is desirable.
    Label(bool),
    /// One finite number for each answer; larger is better.
    Rewards(Vec<f64>),
    /// One answer, to be learned as it is.
    Sequence,
}

/// Numbers that a pair may have besides its preference. A null in the data counts as a missing column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowNumbers {
    /// Factor for the pair's loss: finite, not negative. [`RowNumbers::weight_or_one`] is 1 for a row without a weight.
    pub weight: Option<f64>,
    /// How much better the chosen answer is, in the unit of the loss that reads it: finite. [`RowNumbers::margin_or_zero`] is 0
    /// for a row without a margin.
    pub margin: Option<f64>,
    /// Probabilities in [0, 1] that the chosen answer wins and that the rejected one wins. Both are given, or neither. A loss
    /// that reads them needs them in every row.
    pub win_probability: Option<[f64; 2]>,
    /// Probability in [0, 1] that the chosen answer beats the rejected one.
    pub beats_probability: Option<f64>,
}

impl RowNumbers {
    /// Returns [`RowNumbers::weight`], or 1 if the row has none.
    pub fn weight_or_one(&self) -> f64 {
        self.weight.unwrap_or(1.0)
    }

    /// Returns [`RowNumbers::margin`], or 0 if the row has none.
    pub fn margin_or_zero(&self) -> f64 {
        self.margin.unwrap_or(0.0)
    }
}

/// Kinds of rows that losses read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// A prompt with a chosen and a rejected answer.
    Pair,
    /// A prompt with one answer and its label. A pair can be split into two of these.
    Labelled,
    /// A prompt with any number of answers and a score for each.
    Scored,
    /// A text or a conversation, some of whose tokens are learned.
    Sequence,
}

impl RowKind {
    /// Returns the name that `losses --json` uses.
    pub fn name(self) -> &'static str {
        match self {
            RowKind::Pair => "pairs",
            RowKind::Labelled => "unpaired",
            RowKind::Scored => "kway",
            RowKind::Sequence => "sft",
        }
    }
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Target {
    /// Returns the kind of rows with this target.
    pub fn kind(&self) -> RowKind {
        match self {
            Target::Pair => RowKind::Pair,
            Target::Label(_) => RowKind::Labelled,
            Target::Rewards(_) => RowKind::Scored,
            Target::Sequence => RowKind::Sequence,
        }
    }
}
