//! A look at the first rows of a data set: is what is trained what the rows say?
//!
//! Token ids can be right by every rule and wrong all the same: a chat template that leaves out tool calls, a prompt in a
//! column that nothing reads, turns stored as text. The pass over the data looks at the first [`SAMPLE`] records for such
//! things. What it finds is a [`Warning`] of the survey, with the number of rows and one example; what cannot be meant ends the
//! run.
//!
//! | file | looks for |
//! |---|---|
//! | `rendered` | parts of turns, tools and variables that the chat template leaves out |
//! | `columns` | unread columns that are called like a prompt |
//! | `repeated` | answers that begin with the prompt |
//! | `texts` | texts that are JSON, or what Python prints of a value; texts without a chat template |
//! | `nulls` | null arguments in calls of tools that do not declare them |

mod columns;
mod nulls;
mod rendered;
mod repeated;
mod texts;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DataError;
use super::encode::Encoder;
use super::records::{Parsed, Record, Shape, Text};
use super::survey::Survey;

pub(super) use columns::{candidate, is_like_a_prompt};
pub(super) use repeated::{cut_repeated_text, cut_repeated_turns, repeats_the_prompt};

/// Records that are looked at, the first of the data.
pub const SAMPLE: usize = 256;
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
        /// What it most likely is, by our names: `prompt` or `system`.
        read_as: String,
    },
    /// The prompt is empty, and columns are not read.
    EmptyPrompt {
        /// The file's names of them.
        unread: Vec<String>,
    },
    /// The prompt stood again at the start of every answer of a row, and was cut there.
    RepeatedPromptCut,
    /// An answer begins with the prompt.
    RepeatedPrompt,
    /// A text is JSON, or what Python prints of a value.
    Serialised {
        /// The file's name of the column.
        column: String,
        /// Which of the two.
        notation: Notation,
        /// Whether it has the keys of turns.
        turns: bool,
    },
    /// A call has a null argument that its tool does not declare.
    NullArgument,
    /// The rows are texts without turn markers, and the model has a chat template that is not applied. No fault: a note.
    NoTemplateApplied,
}

/// A part of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TurnPart {
    /// All of `content`.
    Content,
    /// The beginning of `content`: what a template takes for the thoughts before the answer.
    ContentStart,
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
pub(super) struct Found {
    pub finding: Finding,
    pub at: String,
    pub excerpt: String,
}

impl Found {
    fn new(finding: Finding, at: String, text: &str) -> Found {
        Found { finding, at, excerpt: excerpt(text) }
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
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8]) -> Vec<Found> {
    let record = &parsed.record;
    let mut found = Vec::new();
    rendered::look(encoder, record, &mut found);
    columns::look(encoder, parsed, line, &mut found);
    repeated::look(parsed, &mut found);
    texts::look(encoder, record, &mut found);
    nulls::look(encoder, record, &mut found);
    found
}

/// What is counted over all records: that the prompt was cut from the start of the answers.
pub(super) fn cut_prompt(parsed: &Parsed) -> Option<Found> {
    let text = match &parsed.record.prompt {
        Text::Plain(text) => text,
        Text::Turns(turns) => turns.last()?.get("content").and_then(Value::as_str).unwrap_or_default(),
    };
    let new = || Found::new(Finding::RepeatedPromptCut, answer_name(&parsed.record, 0), text);
    parsed.is_prompt_cut.then(new)
}

/// The file's name of an answer's column.
fn answer_name(record: &Record, number: usize) -> String {
    record.answer_columns.get(number).cloned().unwrap_or_default()
}

/// The file's name of the prompt's column; for an implicit prompt that of the first answer, which begins with it.
fn prompt_name(encoder: &Encoder, record: &Record) -> String {
    match record.shape {
        Shape::PairImplicitPrompt => answer_name(record, 0),
        _ => encoder.reading().columns.column("prompt").to_owned(),
    }
}

/// What all that was looked at comes to: findings that mean something in most rows alone go where few have them, and what
/// cannot be meant ends the run.
///
/// # Errors
/// [`DataError::TurnsInText`] where at least half of a column are texts that hold turns;
/// [`DataError::EmptyPrompts`] where at least half of the rows have an empty prompt, and a column that is called like one is
/// not read; [`DataError::NothingRendered`] where the template leaves out what at least half of the answers say.
pub(super) fn settle(survey: &mut Survey) -> Result<(), DataError> {
    let looked_at = survey.looked_at;
    let has_most = |warning: &Warning| 2 * warning.rows >= looked_at;
    survey.warnings.retain(|warning| match warning.finding {
        Finding::Serialised { .. } | Finding::NoTemplateApplied => has_most(warning),
        _ => true,
    });
    for warning in survey.warnings.iter().filter(|warning| has_most(warning)) {
        let Warning { finding, rows, at, path, line, .. } = warning;
        let (path, line, rows, of) = (path.clone(), *line, *rows, looked_at);
        match finding {
            Finding::EmptyPrompt { unread } => {
                if let Some(column) = columns::candidate(unread) {
                    return Err(DataError::EmptyPrompts { path, line, rows, of, column: column.to_owned() });
                }
            }
            Finding::NotRendered { of_answer: true, part: TurnPart::Content } => {
                return Err(DataError::NothingRendered { path, line, rows, of, at: at.clone() });
            }
            Finding::Serialised { column, notation, turns: true } => {
                let (column, notation) = (column.clone(), notation.name());
                return Err(DataError::TurnsInText { path, line, rows, of, column, notation });
            }
            _ => {}
        }
    }
    Ok(())
}
