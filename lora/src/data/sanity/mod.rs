//! A look at a sample of the rows of a data set: is what is trained what the rows say?
//!
//! Token ids can be right by every rule and wrong all the same: a chat template that leaves out tool calls, a prompt in a
//! column that nothing reads, turns stored as text. The pass over the data looks for such things at the first [`FIRST`] records
//! and at some of all files (`Sample`). What it finds is a [`Warning`] of the survey, with the number of rows and one example; what
//! cannot be meant ends the run. A file is judged by itself (`of_file`).
//!
//! | file | looks for |
//! |---|---|
//! | `rendered` | parts of turns, tools and variables that the chat template leaves out |
//! | `columns` | unread columns that are called like a prompt |
//! | `repeated` | answers that begin with the prompt |
//! | `prompts` | prompts that ask nothing |
//! | `speakers` | turns of others that are scored, conversations without the assistant |
//! | `texts` | texts that are JSON, or what Python prints of a value; texts without a chat template |
//! | `nulls` | null arguments in calls of tools that do not declare them |

mod columns;
mod nulls;
mod of_file;
mod prompts;
mod rendered;
mod repeated;
mod speakers;
mod texts;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::encode::Encoder;
use super::records::{Parsed, Record, Shape, Text};

pub(super) use of_file::{Files, OfFile};

/// Records at the start of the data that are looked at, whatever is drawn.
pub const FIRST: usize = 256;
/// Records that are drawn of all, and looked at too.
pub const DRAWN: usize = 4096;
/// Characters of an example.
const EXCERPT: usize = 60;

/// Something that a user may not have meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Finding {
    /// The chat template leaves out a part of an answer or of a prompt.
    NotRendered {
        /// Whether it is of an answer.
        of_answer: bool,
        /// What is left out.
        part: TurnPart,
    },
    /// A part of what the assistant says stands outside the `{% generation %}` marks, and is not scored.
    NotMarked {
        /// What stands outside.
        part: TurnPart,
    },
    /// The text is the same without the row's tools.
    ToolsNotRendered,
    /// The chat template does not read a variable of the row.
    KwargNotRead {
        /// The variable.
        name: String,
    },
    /// A column that is called like a prompt is not read, and its text is not in the prompt.
    UnreadColumn {
        /// The file's name of it.
        column: String,
        /// What it most likely is.
        read_as: ReadAs,
    },
    /// The prompt is empty, and columns that hold something are not read.
    EmptyPrompt {
        /// The file's name of the one that is called like a prompt.
        column: Option<String>,
    },
    /// The prompt is empty, and nothing else is there: an answer to nothing, or to what the system says.
    BlankPrompt,
    /// The prompt is the few letters with which both answers begin.
    FewSharedLetters,
    /// The prompt ends with a turn of the assistant.
    AssistantBeforeAnswer,
    /// An answer has turns of somebody else, which are scored.
    TurnOfOthers {
        /// Their role.
        role: String,
    },
    /// All tokens of a conversation are scored in which the assistant says nothing.
    NoAssistantTurn,
    /// An answer ends with no special token.
    NoStop,
    /// The prompt stood again at the start of every answer of a row, and was cut there.
    RepeatedPromptCut,
    /// An answer begins with the prompt, a text.
    RepeatedPrompt,
    /// An answer begins with the label of a turn, and then the prompt.
    RepeatedBehindLabel,
    /// An answer begins with a prompt of few letters.
    RepeatedShortPrompt,
    /// An answer begins with turns of the prompt.
    RepeatedTurns,
    /// What the assistant says first begins with what the user says last.
    RepeatedContent,
    /// A text is JSON, or what Python prints of a value.
    Serialised {
        /// The file's name of the column.
        column: String,
        /// Which of the two.
        notation: Notation,
        /// Whether it has the keys of turns.
        turns: bool,
    },
    /// A text that is made the user's turn has marks of turns itself.
    MarksInTurn,
    /// A call has a null argument that its tool does not declare.
    NullArgument,
    /// The rows are texts without turn markers, and the model has a chat template that is not applied. No fault: a note.
    NoTemplateApplied,
}

/// What an unread column most likely is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReadAs {
    /// The prompt.
    Prompt,
    /// What the system says.
    System,
    /// Pairs of what user and assistant said before, as LLaMA-Factory's `history` has them: no column of ours.
    Pairs,
}

/// A part of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TurnPart {
    /// All of `content`.
    Content,
    /// The beginning of `content`: what a template takes for the thoughts before the answer.
    ContentStart,
    /// Something within `content`.
    ContentMiddle,
    /// The end of `content`.
    ContentEnd,
    /// `reasoning_content`, or one of its other names.
    Reasoning,
    /// The name of a called tool.
    CallName,
    /// The arguments of a call.
    CallArguments,
}

/// How a value is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Notation {
    /// As JSON.
    Json,
    /// As Python prints it.
    Python,
}

impl Notation {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Notation::Json => "JSON",
            Notation::Python => "Python's repr",
        }
    }
}

/// A finding, in how many rows, with the first as example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// What was found.
    pub finding: Finding,
    /// Records that have it: of those looked at, or of all where all are ([`Warning::of_all`]).
    pub rows: usize,
    /// Where in the first of them, by the file's names: `chosen[0].tool_calls[0]`.
    pub at: String,
    /// The beginning of what stands there.
    pub excerpt: String,
    /// File of the first.
    pub path: PathBuf,
    /// Its 1-based line; in Parquet, its 1-based row.
    pub line: u64,
}

impl Warning {
    /// Whether its rows were counted over all records, not over those that were looked at.
    pub fn of_all(&self) -> bool {
        self.finding == Finding::RepeatedPromptCut
    }
}

/// A finding in one record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sighting {
    pub finding: Finding,
    pub at: String,
    pub excerpt: String,
}

impl Sighting {
    fn new(finding: Finding, at: String, text: &str) -> Sighting {
        Sighting { finding, at, excerpt: excerpt(text) }
    }
}

/// The beginning of a text, on one line.
fn excerpt(text: &str) -> String {
    let text = text.trim();
    let mut short: String = text.chars().take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short += "...";
    }
    short
}

/// Looks at one record. `line` is its bytes.
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8]) -> Vec<Sighting> {
    let record = &parsed.record;
    let mut found = Vec::new();
    rendered::look(encoder, record, &mut found);
    prompts::look(encoder, parsed, line, &mut found);
    columns::look(parsed, line, &mut found);
    speakers::look(encoder, record, &mut found);
    repeated::look(parsed, &mut found);
    texts::look(encoder, record, &mut found);
    nulls::look(record, &mut found);
    found
}

/// Looks at a record whose prompt alone is read. `line` is its bytes.
pub(super) fn look_at_prompt(encoder: &Encoder, parsed: &Parsed, asked: &Text, line: &[u8]) -> Vec<Sighting> {
    let mut found = Vec::new();
    prompts::look(encoder, parsed, line, &mut found);
    columns::look(parsed, line, &mut found);
    let record = Record { prompt: asked.clone(), answers: Vec::new(), ..parsed.record.clone() };
    rendered::look(encoder, &record, &mut found);
    texts::look(encoder, &record, &mut found);
    found
}

/// An answer in this column that does not end with a special token.
pub(super) fn no_stop(column: String) -> Sighting {
    Sighting::new(Finding::NoStop, column, "")
}

/// What is counted over all records: that the prompt was cut from the start of the answers.
pub(super) fn cut_prompt(parsed: &Parsed) -> Option<Sighting> {
    let text = match &parsed.record.prompt {
        Text::Plain(text) => text,
        Text::Turns(turns) => turns.last()?.get("content").and_then(Value::as_str).unwrap_or_default(),
    };
    let new = || Sighting::new(Finding::RepeatedPromptCut, answer_name(&parsed.record, 0), text);
    parsed.is_prompt_cut.then(new)
}

/// The file's name of an answer's column.
fn answer_name(record: &Record, number: usize) -> String {
    record.answer_columns.get(number).cloned().unwrap_or_default()
}

/// The file's name of the prompt's column; for a record that has none that of the first answer, which begins with it.
fn prompt_name(record: &Record) -> String {
    match (record.shape, &record.prompt_column) {
        (Shape::PairImplicitPrompt | Shape::Messages | Shape::Text, _) | (_, None) => answer_name(record, 0),
        (_, Some(column)) => column.clone(),
    }
}
