//! Which columns a row has, and whether they hold strings or conversations.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::Form;
use crate::row::RowKind;

/// The columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// `{prompt, chosen, rejected}`
    Pair,
    /// `{chosen, rejected}`: the prompt is what the two have in common at the start.
    PairImplicitPrompt,
    /// `{prompt, completion, label}`
    Labelled,
    /// `{prompt, completions, rewards}`
    Scored,
    /// `{prompt, completion}`
    Completion,
    /// `{messages}`
    Messages,
    /// `{text}`
    Text,
    /// `{prompt}`
    Prompt,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 8] = [
        Shape::Pair,
        Shape::PairImplicitPrompt,
        Shape::Labelled,
        Shape::Scored,
        Shape::Completion,
        Shape::Messages,
        Shape::Text,
        Shape::Prompt,
    ];

    /// Returns the columns as a user writes them.
    pub fn columns(self) -> &'static str {
        match self {
            Shape::Pair => "{prompt, chosen, rejected}",
            Shape::PairImplicitPrompt => "{chosen, rejected}",
            Shape::Labelled => "{prompt, completion, label}",
            Shape::Scored => "{prompt, completions, rewards}",
            Shape::Completion => "{prompt, completion}",
            Shape::Messages => "{messages}",
            Shape::Text => "{text}",
            Shape::Prompt => "{prompt}",
        }
    }

    /// Returns the names of the columns, without those that any shape may have.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        self.columns().trim_matches(['{', '}']).split(", ")
    }

    /// Returns the kind of rows that have this shape. `None` for a prompt alone.
    pub fn kind(self) -> Option<RowKind> {
        match self {
            Shape::Pair | Shape::PairImplicitPrompt => Some(RowKind::Pair),
            Shape::Labelled => Some(RowKind::Labelled),
            Shape::Scored => Some(RowKind::Scored),
            Shape::Completion | Shape::Messages | Shape::Text => Some(RowKind::Sequence),
            Shape::Prompt => None,
        }
    }

    /// Whether rows of this shape are pairs.
    pub(crate) fn is_pair(self) -> bool {
        self.kind() == Some(RowKind::Pair)
    }
}

/// Shape and form of a row. All rows of a run have the shape and form of its first row, except that pairs with a prompt column
/// and pairs without one may be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowLayout {
    /// The columns.
    pub shape: Shape,
    /// Strings or conversations.
    pub form: Form,
}

impl RowLayout {
    /// Whether rows of the two layouts may be in one run.
    pub fn mixes_with(self, other: RowLayout) -> bool {
        self.form == other.form && (self.shape == other.shape || self.shape.is_pair() && other.shape.is_pair())
    }
}

impl fmt::Display for RowLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.shape.columns(), self.form.describe())
    }
}
