//! A row of preference data as it stands in the file, before any template or token.

use serde_json::Value;

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// 0-based number of the record over all files in their order; blank lines are not records.
    pub row: usize,
    /// The row's `id`, echoed in outputs; `None` where it has none or null.
    pub id: Option<Value>,
    /// What the answers answer.
    pub prompt: Text,
    /// Two answers for pairs (chosen, rejected), one for labelled rows, one or more for scored rows, none for a prompt alone.
    pub answers: Vec<Text>,
    /// What the data says about the answers.
    pub target: RecordTarget,
}

/// A text or the turns of a conversation. Prompt and answers of one row have the same form.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A string, tokenised as it is.
    Plain(String),
    /// Turns: objects with `role` and `content` and whatever else the template reads, keys in the file's order.
    Turns(Vec<Value>),
}

/// What a record says about its answers.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordTarget {
    /// The first answer is preferred to the second.
    Pair,
    /// The one answer is desirable, or is not.
    Label(bool),
    /// One number an answer, larger is better.
    Rewards(Vec<f64>),
    /// A prompt alone, for generation.
    Prompt,
}

/// The columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `{prompt, chosen, rejected}`
    Pair,
    /// `{chosen, rejected}`: the prompt is what the two have in common at the start.
    PairImplicitPrompt,
    /// `{prompt, completion, label}`
    Labelled,
    /// `{prompt, completions, rewards}`
    Scored,
    /// `{prompt}`
    Prompt,
}

impl Shape {
    /// The columns as a user writes them.
    pub fn columns(self) -> &'static str {
        match self {
            Shape::Pair => "{prompt, chosen, rejected}",
            Shape::PairImplicitPrompt => "{chosen, rejected}",
            Shape::Labelled => "{prompt, completion, label}",
            Shape::Scored => "{prompt, completions, rewards}",
            Shape::Prompt => "{prompt}",
        }
    }
}

/// Strings or conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Prompt and answers are strings.
    Plain,
    /// Prompt and answers are lists of `{role, content}`.
    Conversational,
}

impl Form {
    /// The form in a user's words.
    pub fn describe(self) -> &'static str {
        match self {
            Form::Plain => "strings",
            Form::Conversational => "lists of {role, content}",
        }
    }
}
