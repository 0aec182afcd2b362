//! Which tokens of a sequence are scored.

use crate::record::shape::Shape;

/// Which tokens of a sequence are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SftPart {
    /// Those of the completion.
    Completion,
    /// Those of the assistant's turns.
    Assistant,
    /// All but the first.
    All,
}

impl SftPart {
    /// Returns what TRL scores by default for rows of a shape: the completion if there is a prompt and a completion, and
    /// everything of a conversation or a text.
    pub fn default_of(shape: Shape) -> SftPart {
        match shape {
            Shape::Messages | Shape::Text => SftPart::All,
            _ => SftPart::Completion,
        }
    }
}
