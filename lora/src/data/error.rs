//! What can be wrong with data, tokenizer and template files. All of it is bad input: exit code 3.

use std::path::PathBuf;

/// What is wrong with one row. The file and the line stand in [`DataError::Row`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRow {
    /// Bytes that are not UTF-8.
    #[error("byte {at} of the line is not valid UTF-8; save the file as UTF-8")]
    Utf8 {
        /// 1-based byte within the line.
        at: usize,
    },
    /// Longer than a row may be.
    #[error("the line has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes of the line.
        bytes: u64,
        /// Largest accepted number.
        limit: u64,
    },
    /// Not JSON.
    #[error("not valid JSON: {message}")]
    Json {
        /// The parser's words, with the column.
        message: String,
    },
    /// JSON, but not an object.
    #[error("a row must be a JSON object, this is {found}")]
    NotObject {
        /// Kind of the value.
        found: &'static str,
    },
    /// The columns are those of no known shape.
    #[error(
        "columns {found:?} are no known shape; known: {{prompt, chosen, rejected}}, {{chosen, rejected}}, {{prompt, completion, \
         label}}, {{prompt, completions, rewards}}"
    )]
    UnknownShape {
        /// The row's columns.
        found: Vec<String>,
    },
    /// A shape is recognisable, and a column of it is missing.
    #[error("`{missing}` is missing; the other columns are those of {shape}")]
    Missing {
        /// The column.
        missing: &'static str,
        /// The shape's columns.
        shape: &'static str,
    },
    /// The shape differs from that of the first row.
    #[error("the row is {found}, the first row of the run is {first}; put different shapes into separate runs")]
    OtherShape {
        /// Shape and form of this row.
        found: String,
        /// Shape and form of the first row.
        first: String,
    },
    /// The shape is known, but not what this run needs.
    #[error("the row is {found}; {needs}")]
    WrongShape {
        /// The shape's columns.
        found: &'static str,
        /// What the run needs.
        needs: &'static str,
    },
    /// Null where a text is needed.
    #[error("`{field}` is null")]
    Null {
        /// Where.
        field: String,
    },
    /// A value of another kind than needed.
    #[error("`{field}` is {found}, expected {expected}")]
    Type {
        /// Where.
        field: String,
        /// Kind of the value.
        found: &'static str,
        /// What is accepted there.
        expected: &'static str,
    },
    /// A list of turns or of answers without an element.
    #[error("`{field}` is an empty list")]
    EmptyList {
        /// Where.
        field: String,
    },
    /// Two conversations without a common first turn.
    #[error("`chosen` and `rejected` have no first turn in common, so there is no prompt")]
    NoCommonTurn,
    /// As many rewards as answers are needed.
    #[error("{completions} completions, but {rewards} rewards")]
    RewardCount {
        /// Number of answers.
        completions: usize,
        /// Number of rewards.
        rewards: usize,
    },
    /// Nothing to prefer.
    #[error("`chosen` and `rejected` are equal")]
    SameAnswers,
    /// Different texts, the same tokens.
    #[error("`chosen` and `rejected` differ, but are the same tokens (does the chat template drop the difference?)")]
    SameTokens,
    /// An answer that the template or the tokenizer left nothing of.
    #[error("`{field}` has no token of its own after the prompt (does the chat template render it?)")]
    NoAnswerTokens {
        /// Which answer.
        field: String,
    },
    /// The chat template refused the conversation or failed on it.
    #[error("chat template: {message}")]
    Template {
        /// The template's own message, or what went wrong.
        message: String,
    },
    /// The tokenizer failed on the text.
    #[error("tokenizer: {message}")]
    Tokenizer {
        /// The tokenizer's words.
        message: String,
    },
}

/// What went wrong with the data of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Rows are read again in another order, so a pipe or a folder will not do.
    #[error("{path}: not a regular file; rows are read more than once, so write the data to a file first", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A bad row, and the run was not told to skip such rows.
    #[error("{path}:{line}: {reason}", path = path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with it.
        reason: BadRow,
    },
    /// The file changed after it was opened.
    #[error("{path}: the file changed while it was in use; start again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}
