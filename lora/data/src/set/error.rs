//! What can be wrong with data, tokenizer and template files, and with the token cache and the rejected rows that a run writes.

use std::path::PathBuf;

use super::dropped::{DropKind, Dropped};
use crate::record::bad_row::BadRow;
use crate::record::shape::{RowLayout, Shape};
use crate::source::error::{SourceError, list};
use crate::source::reader::Rows;
use crate::tokens::encode::{DropReason, Encoder, EncoderError};

/// What went wrong with the data of a run.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An error of the files that hold the rows.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An error of the tokenizer or of the chat template.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A bad row, and the run was not told to skip such rows.
    #[error("{path}:{line}: {reason}")]
    Row {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with it.
        reason: BadRow,
    },
    /// The first row has a known shape, but not one that this run can use.
    #[error("{path}:{line}: the row is {}; {needs}{}", found.columns(), hint.as_deref().unwrap_or_default())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// Its shape.
        found: Shape,
        /// What the run needs.
        needs: &'static str,
        /// A guess at which unread columns hold the answers.
        hint: Option<String>,
    },
    /// `--columns` names a column that no row has.
    #[error("--columns {name}={column}: no row has the column `{column}` in {}", list(paths))]
    NoSuchColumn {
        /// Our name.
        name: &'static str,
        /// The name that the files should have for it.
        column: String,
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// `--sft-on` asks for a part that the rows do not have, or `--pairs` has no effect.
    #[error("{path}:{line}: the row is {found}; {needs}")]
    WrongPart {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// Shape and form of the row.
        found: RowLayout,
        /// What the flag needs, or why it has no effect.
        needs: &'static str,
    },
    /// More than a tenth of the rows are left out: the model would learn another data set.
    #[error(
        "{dropped} of {rows} rows are dropped, more than a tenth; {} of them: {}, the first at {}:{}: {}; {}, or give --allow-drops to go on \
         without them",
        most.rows, most.label, most.path.display(), most.line, most.first, what_to_do(most.kind)
    )]
    ManyDropped {
        /// Rows that are left out.
        dropped: usize,
        /// Rows that could be used, including those left out.
        rows: usize,
        /// The most frequent reason.
        most: Box<Dropped>,
    },
    /// No row is left to use.
    #[error("{}: {path}:{line}: {reason}", none_of(*rows))]
    NothingLeft {
        /// Records in the files.
        rows: usize,
        /// The file of the first dropped row.
        path: PathBuf,
        /// Its 1-based line.
        line: u64,
        /// Why the first row was dropped.
        reason: DropReason,
    },
    /// Pairs of texts have no prompt column, and nothing shows where their answers begin.
    #[error(
        "{path}:{line}: `{chosen}` and `{rejected}` are texts without a prompt column, and no turn marker, such as \
         \"\\n\\nAssistant:\", is in the common start of 95 % of {rows} such rows, so where the answers begin would be a \
         guess; name the column of the prompt (--columns prompt={column}), or give --implicit-prompt to make the longest \
         common prefix the prompt"
    )]
    NoTurnMarker {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first such row.
        line: u64,
        /// Rows that were looked at.
        rows: usize,
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
        /// An unread column with a name like a prompt's, or `NAME`.
        column: String,
    },
    /// Prompts are empty, but an unread column has a name like a prompt's.
    #[error(
        "{path}:{line}: the prompt is empty, in {rows} of the {of} rows looked at, and the column `{column}` is not read; give \
         --columns prompt={column}, or take the column out of the file"
    )]
    EmptyPrompts {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first such row.
        line: u64,
        /// Rows with an empty prompt.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// The file's name of the column.
        column: String,
    },
    /// The template leaves out the content of answers.
    #[error(
        "{path}:{line}: the chat template leaves out what `{at}` says, in {rows} of the {of} rows looked at: nothing would be learned from \
         such answers; give a template that prints them (--chat-template FILE)"
    )]
    NothingRendered {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first such row.
        line: u64,
        /// Rows with such an answer.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// The place of what is left out, in the first of these rows.
        at: String,
    },
    /// Turns are written as text that is not read as turns.
    #[error(
        "{path}:{line}: `{column}` is text that holds turns as {notation}, in {rows} of the {of} rows looked at, and would be learned with its \
         brackets; store the turns as a list of {{role, content}}"
    )]
    TurnsInText {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first such row.
        line: u64,
        /// Rows with such a text.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// The file's name of the column.
        column: String,
        /// The notation of the turns.
        notation: &'static str,
    },
    /// The rows are conversations, but the model has no chat template.
    #[error(
        "{path}:{line}: the data is conversational, but {model} has no chat template (neither chat_template.jinja nor chat_template in \
         tokenizer_config.json); give one with --chat-template FILE, or use strings"
    )]
    NoTemplate {
        /// The data file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// The model directory.
        model: PathBuf,
    },
    /// The rows are conversations, but the model's own chat template cannot be used.
    #[error(
        "{path}:{line}: the data is conversational, and the model's own chat template cannot be used: {reason}; give one with \
         --chat-template FILE, or use strings"
    )]
    BrokenTemplate {
        /// The data file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with the template.
        reason: String,
    },
    /// The rows are strings, but the model has no EOS token to end answers with.
    #[error(
        "{path}:{line}: answers given as strings end with the EOS token, but {model} names no eos_token that its tokenizer.json knows; \
         set eos_token in tokenizer_config.json, or use conversations"
    )]
    NoEos {
        /// The data file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// The model directory.
        model: PathBuf,
    },
    /// Cached tokens that were sound when the run began are now damaged.
    #[error("{path}: the token cache was damaged while it was in use: {why}; start again")]
    Cache {
        /// The cache entry.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The rows that were left out cannot be written.
    #[error("the rejected rows cannot be written: {0}")]
    Rejects(std::io::Error),
    /// No row can be held out, since all have the same prompt.
    #[error("all {rows} usable rows have the same prompt, so none can be held out; give --eval-data instead")]
    OnePrompt {
        /// Usable rows.
        rows: usize,
    },
}

impl DataError {
    /// Makes the error of a bad row, with its file and line.
    pub(crate) fn of_row(rows: &Rows, row: usize, reason: BadRow) -> DataError {
        let (path, line) = rows.place(row);
        DataError::Row { path, line, reason }
    }

    /// Makes the error of a conversation that cannot be rendered because there is no usable template.
    pub(crate) fn no_template(encoder: &Encoder, path: PathBuf, line: u64) -> DataError {
        let model = encoder.model_dir().to_owned();
        match encoder.template_fault() {
            None => DataError::NoTemplate { path, line, model },
            Some(fault) => DataError::BrokenTemplate { path, line, reason: fault.to_string() },
        }
    }
}

/// Says what the user can do to keep the rows that are dropped.
fn what_to_do(kind: DropKind) -> &'static str {
    match kind {
        DropKind::Length => "raise --max-length",
        DropKind::Prompt => "see that the column of the prompt is read (--columns prompt=NAME)",
        DropKind::Marker => {
            "name the column of the prompt, if the rows have one (--columns prompt=NAME), or use what both answers begin with \
             (--implicit-prompt)"
        }
        DropKind::NoPair => "give answers of different scores",
        DropKind::Bad => "correct the rows",
    }
}

/// Returns the beginning of the message of [`DataError::NothingLeft`].
fn none_of(rows: usize) -> String {
    match rows {
        1 => "the only row cannot be used".to_owned(),
        rows => format!("none of {rows} rows can be used; the first"),
    }
}
