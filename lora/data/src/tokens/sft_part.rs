//! Which tokens of a sequence are scored.

use crate::record::shape::Shape;

/// Which tokens of a sequence are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SftPart {
    /// Tokens of the completion.
    Completion,
    /// Tokens of the assistant's turns.
    Assistant,
    /// All tokens but the first, which nothing predicts.
    All,
}

impl SftPart {
    /// Returns what TRL scores by default for rows of this shape: everything in a conversation or a text, and the completion in
    /// rows with a prompt and a completion.
    pub fn default_of(shape: Shape) -> SftPart {
        match shape {
            Shape::Messages | Shape::Text => SftPart::All,
            _ => SftPart::Completion,
        }
    }
}
