//! Looks at a sample of the rows of a data set: does the model learn what the rows say?
//!
//! Token ids can follow every rule and still be wrong: a chat template leaves out tool calls, a prompt is in a column that nothing
//! reads, turns are stored as text. The walk over the data looks for such faults in the first [`FIRST`] records and in some of
//! every file (`Sample`). A finding becomes a [`Warning`] of the survey, with the number of rows and one example. A fault that
//! nobody can intend ends the run. Each file is judged by itself (`of_file`).
//!
//! | file | looks for |
//! |---|---|
//! | `rendered` | parts of turns, tools and variables that the chat template leaves out |
//! | `columns` | unread columns with names like a prompt's |
//! | `repeated` | answers that begin with the prompt |
//! | `prompts` | prompts that ask nothing |
//! | `speakers` | scored turns of other speakers, conversations without the assistant, unknown roles |
//! | `marks` | marks of turns that are not tokens, turns of others within the text of an answer |
//! | `verdicts` | unread columns that say which answer is better |
//! | `texts` | texts that are JSON or printed by Python; texts to which the chat template is not applied |
//! | `nulls` | null arguments in calls of tools that do not declare them |

mod columns;
mod marks;
mod nulls;
mod of_file;
mod prompts;
mod rendered;
mod repeated;
mod speakers;
mod texts;
mod verdicts;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::records::{Parsed, Record};
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::record::turn::content_of;
use crate::tokens::encode::Encoder;

pub(crate) use of_file::{Files, OfFile, SEVERAL};

/// Number of records at the start of the data that are always looked at.
pub(crate) const FIRST: usize = 256;
/// Approximate number of records that are drawn from the whole data and are also looked at.
pub(crate) const DRAWN: usize = 4096;
/// Maximum number of characters of an example.
const EXCERPT: usize = 60;

/// Something that a user may not have intended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Finding {
    /// The chat template leaves out a part of an answer or of a prompt.
    NotRendered {
        /// Whether the part is of an answer.
        of_answer: bool,
        /// The part that is left out.
        part: TurnPart,
    },
    /// A part of a turn of the assistant is outside the `{% generation %}` marks of the template, so it is not scored.
    NotMarked {
        /// The part.
        part: TurnPart,
    },
    /// The rendered text does not change without the row's tools.
    ToolsNotRendered,
    /// The chat template does not read a variable of the row.
    KwargNotRead {
        /// The variable.
        name: String,
    },
    /// A column with a name like a prompt's is not read, and its text is not in the prompt.
    UnreadColumn {
        /// The file's name of the column.
        column: String,
        /// What the column most likely holds.
        read_as: ReadAs,
    },
    /// The prompt is empty, and columns with text are not read.
    EmptyPrompt {
        /// The column with a name like a prompt's, if there is one, by the file's name.
        column: Option<String>,
    },
    /// The prompt is empty and no other column has text: the answer follows nothing, or only a system text.
    BlankPrompt,
    /// The prompt is only the few letters with which both answers happen to begin.
    FewSharedLetters,
    /// The prompt ends with a turn of the assistant.
    AssistantBeforeAnswer,
    /// An answer has turns of another speaker, which are scored.
    TurnOfOthers {
        /// The role of that speaker.
        role: String,
    },
    /// The text of an answer goes on with turns of others, which are scored.
    TextOfOthers {
        /// The mark that opens them.
        mark: String,
    },
    /// A turn has a role that neither this program nor the chat template knows.
    UnknownRole {
        /// The role.
        role: String,
    },
    /// A mark of turns is not a token of the model, so it is cut into several tokens.
    MarkIsNoToken {
        /// The mark.
        mark: String,
    },
    /// A text begins with the token that the tokenizer also puts before every text.
    SecondStart {
        /// The token.
        token: String,
    },
    /// The content of a turn has a mark of turns that is a token of the model.
    MarkInContent {
        /// The mark.
        mark: String,
    },
    /// All tokens of a conversation are scored, but the assistant says nothing in it.
    NoAssistantTurn,
    /// An answer does not end with a special token.
    NoStop,
    /// Every answer of a row began with a copy of the prompt, which was cut.
    RepeatedPromptCut,
    /// An answer that is a text begins with the prompt.
    RepeatedPrompt,
    /// An answer begins with the label of a turn, and then the prompt.
    RepeatedBehindLabel,
    /// An answer begins with the prompt, which has few letters.
    RepeatedShortPrompt,
    /// An answer begins with turns of the prompt.
    RepeatedTurns,
    /// The assistant's first turn begins with the user's last one.
    RepeatedContent,
    /// A text is JSON, or a value as Python prints it.
    Serialised {
        /// The file's name of the column.
        column: String,
        /// How the text is written: as JSON, or as Python prints a value.
        notation: Notation,
        /// Whether the text holds turns that can be read.
        turns: bool,
    },
    /// A text that becomes the user's turn contains turn markers itself.
    MarksInTurn,
    /// An unread score of the chosen answer is below that of the rejected one.
    LowerScoreChosen {
        /// The column of the chosen answer's score.
        chosen: String,
        /// The column of the rejected answer's score.
        rejected: String,
    },
    /// The user named the columns of the two answers, and an unread column may say which of them is better.
    UnreadVerdict {
        /// The column.
        column: String,
        /// What the column says.
        value: String,
    },
    /// A call has a null argument that its tool does not declare.
    NullArgument,
    /// The rows are texts without turn markers, and the model's chat template is not applied. This is a note, not a fault.
    NoTemplateApplied,
}

/// What an unread column most likely holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReadAs {
    /// The prompt.
    Prompt,
    /// The system text.
    System,
    /// Pairs of earlier user and assistant texts, as in LLaMA-Factory's `history`. No column of ours holds these.
    Pairs,
}

/// A part of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TurnPart {
    /// The whole `content`.
    Content,
    /// The beginning of `content`, which a template may read as the thoughts before the answer.
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

/// How a value was written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Notation {
    /// As JSON.
    Json,
    /// As Python prints it.
    Python,
}

impl Notation {
    /// Returns the name of the notation.
    pub fn name(self) -> &'static str {
        match self {
            Notation::Json => "JSON",
            Notation::Python => "Python's repr",
        }
    }
}

/// A finding, the number of records that have it, and the first of them as an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// What was found.
    pub finding: Finding,
    /// Number of records with this finding: among those that were looked at, or among all if [`Warning::of_all`].
    pub rows: usize,
    /// The place of the finding in the first of these records, by the file's names: `chosen[0].tool_calls[0]`.
    pub at: String,
    /// The beginning of the text at that place.
    pub excerpt: String,
    /// The file of the first of these records.
    pub path: PathBuf,
    /// The 1-based line of the first record; in Parquet, its 1-based row.
    pub line: u64,
}

impl Warning {
    /// Whether the finding was counted in all records, and not only in those that were looked at.
    pub fn of_all(&self) -> bool {
        self.finding == Finding::RepeatedPromptCut
    }
}

/// A finding in one record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sighting {
    pub finding: Finding,
    pub at: String,
    pub excerpt: String,
}

impl Sighting {
    fn new(finding: Finding, at: String, text: &str) -> Sighting {
        Sighting { finding, at, excerpt: excerpt(text) }
    }
}

/// Returns the beginning of a text, at most [`EXCERPT`] characters, on one line.
fn excerpt(text: &str) -> String {
    let text = text.trim();
    let mut short: String = text.chars().take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short += "...";
    }
    short
}

/// Looks for all kinds of faults in a record. `line` is its bytes.
pub(crate) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8]) -> Vec<Sighting> {
    let record = &parsed.record;
    let mut found = Vec::new();
    rendered::look(encoder, record, &mut found);
    prompts::look(encoder, parsed, line, &mut found);
    columns::look(parsed, line, &mut found);
    verdicts::look(encoder, parsed, line, &mut found);
    speakers::look(encoder, record, &mut found);
    marks::look(encoder, record, &mut found);
    marks::look_at_contents(encoder, record, &mut found);
    repeated::look(parsed, &mut found);
    texts::look(encoder, record, &mut found);
    nulls::look(record, &mut found);
    found
}

/// Looks for faults in the prompt of a record, if only the prompt is used. `line` is the record's bytes.
pub(crate) fn look_at_prompt(encoder: &Encoder, parsed: &Parsed, asked: &Text, line: &[u8]) -> Vec<Sighting> {
    let mut found = Vec::new();
    prompts::look(encoder, parsed, line, &mut found);
    columns::look(parsed, line, &mut found);
    let record = Record { prompt: asked.clone(), answers: Vec::new(), ..parsed.record.clone() };
    rendered::look(encoder, &record, &mut found);
    speakers::look_at_roles(encoder, &record, &mut found);
    marks::look(encoder, &record, &mut found);
    marks::look_at_contents(encoder, &record, &mut found);
    texts::look(encoder, &record, &mut found);
    found
}

/// Reports that an answer in this column does not end with a special token.
pub(crate) fn no_stop(column: String) -> Sighting {
    Sighting::new(Finding::NoStop, column, "")
}

/// Reports that the prompt was cut from the start of the answers; `None` if it was not. This is counted over all records.
pub(crate) fn cut_prompt(parsed: &Parsed) -> Option<Sighting> {
    let text = match &parsed.record.prompt {
        Text::Plain(text) => text,
        Text::Turns(turns) => content_of(turns.last()?).unwrap_or_default(),
    };
    let new = || Sighting::new(Finding::RepeatedPromptCut, answer_name(&parsed.record, 0), text);
    parsed.is_prompt_cut.then(new)
}

/// Returns the prompt and the answers of a record, each with the file's name of its column.
fn named_texts(record: &Record) -> impl Iterator<Item = (String, &Text)> {
    let answers = record.answers.iter().enumerate().map(|(number, text)| (answer_name(record, number), text));
    std::iter::once((prompt_name(record), &record.prompt)).chain(answers)
}

/// Returns the file's name of an answer's column.
fn answer_name(record: &Record, number: usize) -> String {
    record.answer_columns.get(number).cloned().unwrap_or_default()
}

/// Returns the file's name of the prompt's column. If there is none, the prompt is the beginning of the first answer: then the
/// name of that answer's column is returned.
fn prompt_name(record: &Record) -> String {
    match (record.shape, &record.prompt_column) {
        (Shape::PairImplicitPrompt | Shape::Messages | Shape::Text, _) | (_, None) => answer_name(record, 0),
        (_, Some(column)) => column.clone(),
    }
}
