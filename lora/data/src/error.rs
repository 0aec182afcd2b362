//! What can be wrong with data, tokenizer and template files. All of it is bad input: exit code 3.

use std::path::PathBuf;

use crate::bad_row::BadRow;
use crate::record::records::Kind;
use crate::set::survey::{DropKind, Dropped};
use crate::source::hub::HubFault;
use crate::source::parquet::ParquetFault;
use crate::tokens::encode::DropReason;
use crate::tokens::template::TemplateError;
use crate::tokens::tokenizer::TokenizerError;

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
    /// A folder where a file is needed.
    #[error("{path}: is a folder; name its files, with a pattern in quotes: \"{pattern}\"", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The pattern of the data files in it.
        pattern: String,
    },
    /// A pattern for which there is no file.
    #[error(
        "the pattern {pattern} matches no file (`*` ends at a `/`, and no pattern matches a name with a dot in front)"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A name that is not text, which no pattern is compared with.
    #[error("{path:?}: its name is not UTF-8, so the pattern {pattern} would skip it; rename it")]
    NotText {
        /// The file.
        path: PathBuf,
        /// The pattern that it would match.
        pattern: String,
    },
    /// A pattern that is none.
    #[error("the pattern {pattern} is not one: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// The id of a data set whose files are not in the local Hugging Face cache.
    #[error("{id}: {fault}")]
    Hub {
        /// The id as the user gave it.
        id: String,
        /// What is wrong.
        fault: Box<HubFault>,
    },
    /// A format that is not read.
    #[error(
        "{path}: is {found}; supported: JSONL, JSON arrays and CSV, plain or compressed by gzip or zstd, and Parquet",
        path = path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A JSON array of all rows that is broken.
    #[error("{path}:{line}: the JSON array {message}", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with it.
        message: &'static str,
    },
    /// A CSV file that is broken.
    #[error("{path}:{line}: {message}", path = path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// JSON objects over several lines.
    #[error(
        "{path}: is a JSON object over several lines; rows are read one object a line (JSONL), so convert it first: \
         jq -c . {path} > rows.jsonl",
        path = path.display()
    )]
    SeveralLines {
        /// The file.
        path: PathBuf,
    },
    /// YAML.
    #[error(
        "{path}: is YAML; rows are read one JSON object a line (JSONL), so convert it first: python3 -c 'import json, yaml; \
         [print(json.dumps(row)) for row in yaml.safe_load(open(\"{path}\"))]' > rows.jsonl",
        path = path.display()
    )]
    Yaml {
        /// The file.
        path: PathBuf,
    },
    /// One object around all rows.
    #[error(
        "{path}: is one JSON object with its rows under `{key}`; rows are read one object a line (JSONL), so convert it first: \
         jq -c '.[\"{key}\"][]' {path} > rows.jsonl",
        path = path.display()
    )]
    AroundRows {
        /// The file.
        path: PathBuf,
        /// Where the rows are.
        key: String,
    },
    /// One object of columns.
    #[error(
        "{path}: is one JSON object of columns; rows are read one object a line (JSONL), so convert it first: python3 -c \
         'import pandas; pandas.read_json(\"{path}\").to_json(\"rows.jsonl\", orient=\"records\", lines=True)'",
        path = path.display()
    )]
    ByColumn {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file that holds something other than text.
    #[error("{path}: inside {outer} it is {found}; only JSONL, JSON arrays and CSV are read in compressed files, so unpack it first", path = path.display())]
    Nested {
        /// The file.
        path: PathBuf,
        /// Its own format.
        outer: &'static str,
        /// What is inside.
        found: &'static str,
    },
    /// A compressed file that is broken.
    #[error("{path}: cannot be unpacked as {format}: {message} (is the file complete?)", path = path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A Parquet file that is broken, or has columns that cannot be read.
    #[error("{path}: {fault}", path = path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: ParquetFault,
    },
    /// A file that unpacks to far more than text does.
    #[error("{path}: unpacks to more than {limit} bytes, which no text of its size does; unpack it yourself if it is meant so", path = path.display())]
    Expansion {
        /// The file.
        path: PathBuf,
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// A file with so many lines that they cannot be rows.
    #[error(
        "{path}: more than {limit} lines, which no rows of a file of its size make; is it one object a line?",
        path = path.display()
    )]
    ManyLines {
        /// The file.
        path: PathBuf,
        /// What is allowed.
        limit: u64,
    },
    /// More files than the system lets a process open.
    #[error(
        "{files} data files, and a process may have {limit} open here; allow more (ulimit -n), or put the files together (cat, for \
         JSONL as it is or compressed)"
    )]
    TooManyFiles {
        /// How many files there are.
        files: usize,
        /// What the system allows, all files of the process counted.
        limit: u64,
    },
    /// The temporary file for unpacked rows.
    #[error(
        "unpacked rows are kept in a temporary file in {folder}, which fails: {source}; set TMPDIR to a folder with more room",
        folder = folder.display()
    )]
    Spool {
        /// Its folder.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
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
    /// No row in any file.
    #[error("no row in {}", list(paths))]
    Empty {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// More rows than the index can number.
    #[error("{rows} rows; at most {limit} are possible in one run, split the data")]
    TooManyRows {
        /// Rows that there are.
        rows: usize,
        /// Most rows of a run.
        limit: usize,
    },
    /// The first row has a known shape, but not one that this run can use.
    #[error("{path}:{line}: the row is {found}; {needs}{}", hint.as_deref().unwrap_or_default(), path = path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// The shape's columns.
        found: &'static str,
        /// What the run needs.
        needs: &'static str,
        /// A guess at what its unread columns are.
        hint: Option<String>,
    },
    /// A column that is to be read under one of our names stands in no row.
    #[error("--columns {name}={column}: no row has the column `{column}` in {}", list(paths))]
    NoSuchColumn {
        /// Our name.
        name: &'static str,
        /// The file's.
        column: String,
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// `--sft-on`, and the rows have no such part.
    #[error("{path}:{line}: the row is {found}; {needs}", path = path.display())]
    WrongPart {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// Shape and form of the row.
        found: Kind,
        /// What the part is a part of.
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
    #[error("{}: {path}:{line}: {reason}", none_of(*rows), path = path.display())]
    NothingLeft {
        /// Rows that there are.
        rows: usize,
        /// File of the first dropped row.
        path: PathBuf,
        /// Its 1-based line.
        line: u64,
        /// Why it was dropped.
        reason: DropReason,
    },
    /// Pairs of texts have no prompt column, and nothing shows where their answers begin.
    #[error(
        "{path}:{line}: `{chosen}` and `{rejected}` are texts without a prompt column, and no turn marker, such as \
         \"\\n\\nAssistant:\", is in the common start of 95 % of {rows} such rows, so where the answers begin would be a \
         guess; name the column of the prompt (--columns prompt={column}), or give --implicit-prompt to make the longest \
         common prefix the prompt",
        path = path.display()
    )]
    NoTurnMarker {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first.
        line: u64,
        /// Rows that were looked at.
        rows: usize,
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
        /// The unread column with a name like a prompt's, or a placeholder.
        column: String,
    },
    /// Prompts are empty, but an unread column has a name like a prompt's.
    #[error(
        "{path}:{line}: the prompt is empty, in {rows} of the {of} rows looked at, and the column `{column}` is not read; give \
         --columns prompt={column}, or take the column out of the file",
        path = path.display()
    )]
    EmptyPrompts {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first.
        line: u64,
        /// Rows that have it.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// The file's name of the column.
        column: String,
    },
    /// The template leaves out the content of answers.
    #[error(
        "{path}:{line}: the chat template leaves out what `{at}` says, in {rows} of the {of} rows looked at: nothing would be learned from \
         such answers; give a template that prints them (--chat-template FILE)",
        path = path.display()
    )]
    NothingRendered {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first.
        line: u64,
        /// Rows that have it.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// Where it is in the first of them.
        at: String,
    },
    /// Turns are written as text, in a form that is not read as turns.
    #[error(
        "{path}:{line}: `{column}` is text that holds turns as {notation}, in {rows} of the {of} rows looked at, and would be learned with its \
         brackets; store the turns as a list of {{role, content}}",
        path = path.display()
    )]
    TurnsInText {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first.
        line: u64,
        /// Rows that have it.
        rows: usize,
        /// Rows that were looked at.
        of: usize,
        /// The file's name of the column.
        column: String,
        /// The notation of the turns.
        notation: &'static str,
    },
    /// Conversations, and the model has no chat template.
    #[error(
        "{path}:{line}: the data is conversational, but {model} has no chat template (neither chat_template.jinja nor chat_template in \
         tokenizer_config.json); give one with --chat-template FILE, or use strings",
        path = path.display(), model = model.display()
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
         --chat-template FILE, or use strings",
        path = path.display()
    )]
    BrokenTemplate {
        /// The data file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with the template.
        reason: String,
    },
    /// Strings, and the tokenizer has no EOS token to end answers with.
    #[error(
        "{path}:{line}: answers given as strings end with the EOS token, but {model} names no eos_token that its tokenizer.json knows; \
         set eos_token in tokenizer_config.json, or use conversations",
        path = path.display(), model = model.display()
    )]
    NoEos {
        /// The data file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// The model directory.
        model: PathBuf,
    },
    /// The model's tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template as a file.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Tokens on the disk that were sound when the run began.
    #[error("{path}: the token cache was damaged while it was in use: {why}; start again", path = path.display())]
    Cache {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Rows that were left out cannot be written down.
    #[error("the rejected rows cannot be written: {0}")]
    Rejects(std::io::Error),
    /// Nothing can be held out.
    #[error("all {rows} usable rows have the same prompt, so none can be held out; give --eval-data instead")]
    OnePrompt {
        /// Usable rows.
        rows: usize,
    },
    /// The file changed after it was opened.
    #[error("{path}: the file changed while it was in use; start again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// Says how to keep the rows that are dropped.
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

/// Returns the beginning of the message if no row is left.
fn none_of(rows: usize) -> String {
    match rows {
        1 => "the only row cannot be used".to_owned(),
        rows => format!("none of {rows} rows can be used; the first"),
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
