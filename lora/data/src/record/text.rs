//! A text or the turns of a conversation, as prompt or answer of a row.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::turn::{content_of, is_assistant, is_system, said_by};

/// A text or the turns of a conversation. Prompt and answers of one row have the same form.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A string, tokenised as it is.
    Plain(String),
    /// Turns: objects with `role` and `content` (a string) and whatever else the template reads. Keys keep the file's order.
    Turns(Vec<Value>),
}

impl Text {
    /// Whether an answer says nothing: a blank text, or turns of the assistant with a blank content and nothing else.
    pub(crate) fn says_nothing(&self) -> bool {
        let is_blank = |text: &str| text.trim().is_empty();
        let is_empty = |value: &Value| value.is_null() || value.as_str().is_some_and(is_blank);
        let holds_nothing = |turn: &Value| {
            turn.as_object().is_some_and(|turn| turn.iter().all(|(key, value)| key == "role" || is_empty(value)))
        };
        match self {
            Text::Plain(text) => is_blank(text),
            Text::Turns(turns) => {
                turns.iter().any(is_assistant) && turns.iter().filter(|turn| is_assistant(turn)).all(holds_nothing)
            }
        }
    }

    /// Returns the turns of a conversation. Empty for a text.
    pub(crate) fn turns(&self) -> &[Value] {
        match self {
            Text::Plain(_) => &[],
            Text::Turns(turns) => turns,
        }
    }

    /// Returns the form: a string or turns.
    pub fn form(&self) -> Form {
        match self {
            Text::Plain(_) => Form::Plain,
            Text::Turns(_) => Form::Conversational,
        }
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Text::Plain(text) => text.len() as u64,
            Text::Turns(turns) => turns.iter().map(|turn| turn.to_string().len() as u64).sum(),
        }
    }

    /// Returns the number of bytes of a text, or the number of turns. The number grows if a system text is put before the text or
    /// the turns.
    pub(crate) fn extent(&self) -> usize {
        match self {
            Text::Plain(text) => text.len(),
            Text::Turns(turns) => turns.len(),
        }
    }

    /// Turns a string into a turn of this role. Leaves turns as they are.
    pub(crate) fn make_turn(&mut self, role: &str) {
        if let Text::Plain(text) = self {
            *self = Text::Turns(vec![said_by(role, text)]);
        }
    }

    /// Puts the system text before the prompt: as a turn before turns, or with a blank line before a text. Changes nothing if the
    /// turns have a system turn, or if the prompt has the system text already: at the start of its first turn, or in the text. A
    /// short system text must be at the start of the text to count.
    #[must_use]
    pub fn with_system(self, system: &str) -> Text {
        let asked = system.trim();
        match self {
            Text::Plain(text) if holds(&text, asked) => Text::Plain(text),
            Text::Plain(text) => Text::Plain([system, "\n\n", &text].concat()),
            Text::Turns(mut turns) => {
                let first = turns.first().and_then(content_of).unwrap_or_default();
                if !turns.iter().any(is_system) && !first.trim_start().starts_with(asked) {
                    turns.insert(0, said_by("system", system));
                }
                Text::Turns(turns)
            }
        }
    }
}

/// Returns the characters with which both texts begin.
pub(crate) fn common_start<'t>(text: &'t str, other: &str) -> &'t str {
    let pairs = text.chars().zip(other.chars());
    let end: usize = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    &text[..end]
}

/// Whether `text` begins with `other`, or contains it and `other` is too long for a coincidence.
fn holds(text: &str, other: &str) -> bool {
    text.trim_start().starts_with(other) || other.chars().count() >= FEW && text.contains(other)
}

/// Strings or conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// Prompt and answers are strings.
    Plain,
    /// Prompt and answers are lists of `{role, content}`.
    Conversational,
}

impl Form {
    /// Returns the form in a user's words.
    pub fn describe(self) -> &'static str {
        match self {
            Form::Plain => "strings",
            Form::Conversational => "lists of {role, content}",
        }
    }
}

/// Whether a prompt is blank. Turns are blank if nobody except the system says anything.
pub(crate) fn is_blank(prompt: &Text) -> bool {
    let is_empty = |turn: &Value| content_of(turn).is_some_and(|content| content.trim().is_empty());
    match prompt {
        Text::Plain(text) => text.trim().is_empty(),
        Text::Turns(turns) => turns.iter().all(|turn| is_system(turn) || is_empty(turn)),
    }
}

/// A text of at least this many characters is not repeated by coincidence.
pub(crate) const FEW: usize = 8;
