//! What can be wrong with data files. Everything except a failure of the temporary file ([`SourceError::Spool`]) is bad input.

use std::path::PathBuf;

use super::hub::fault::HubFault;
use super::parquet::fault::ParquetFault;

/// Why rows cannot be read from files.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file does not exist, but one of almost the same name does.
    #[error("{path}: no such file; did you mean {similar}?")]
    Misspelt {
        /// The path.
        path: PathBuf,
        /// The existing file.
        similar: PathBuf,
    },
    /// A path that is neither a regular file nor a folder, such as a pipe. Rows are read more than once and in any order, so a
    /// regular file is needed.
    #[error("{path}: not a regular file; rows are read more than once, so write the data to a file first")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder, but a file is needed.
    #[error("{path}: is a folder; name its files, with a pattern in quotes: \"{pattern}\"")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The pattern of the data files in it.
        pattern: String,
    },
    /// A pattern that no file matches.
    #[error(
        "the pattern {pattern} matches no file (`*` ends at a `/`, and no pattern matches a name with a dot in front)"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A file name that is not UTF-8. Patterns skip such names.
    #[error("{path:?}: its name is not UTF-8, so the pattern {pattern} would skip it; rename it")]
    NotText {
        /// The file.
        path: PathBuf,
        /// The pattern that it might match.
        pattern: String,
    },
    /// A pattern that is not valid.
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
    /// A file in a format that cannot be read.
    #[error(
        "{path}: is {found}; supported: JSONL, JSON arrays and CSV, plain or compressed by gzip or zstd, and Parquet"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        found: &'static str,
    },
    /// A broken JSON array of all rows, or a broken CSV file.
    #[error("{path}:{line}: {message}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// JSON objects that extend over several lines.
    #[error(
        "{path}: is a JSON object over several lines; rows are read one object a line (JSONL), so convert it first: \
         jq -c . {path} > rows.jsonl"
    )]
    SeveralLines {
        /// The file.
        path: PathBuf,
    },
    /// A YAML file.
    #[error(
        "{path}: is YAML; rows are read one JSON object a line (JSONL), so convert it first: python3 -c 'import json, yaml; \
         [print(json.dumps(row)) for row in yaml.safe_load(open(\"{path}\"))]' > rows.jsonl"
    )]
    Yaml {
        /// The file.
        path: PathBuf,
    },
    /// One JSON object that encloses all rows.
    #[error(
        "{path}: is one JSON object with its rows under `{key}`; rows are read one object a line (JSONL), so convert it first: \
         jq -c '.[\"{key}\"][]' {path} > rows.jsonl"
    )]
    AroundRows {
        /// The file.
        path: PathBuf,
        /// The key that holds the rows.
        key: String,
    },
    /// One JSON object that holds columns instead of rows.
    #[error(
        "{path}: is one JSON object of columns; rows are read one object a line (JSONL), so convert it first: python3 -c \
         'import pandas; pandas.read_json(\"{path}\").to_json(\"rows.jsonl\", orient=\"records\", lines=True)'"
    )]
    ByColumn {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file that holds something other than text.
    #[error(
        "{path}: inside {outer} it is {found}; only JSONL, JSON arrays and CSV are read in compressed files, so unpack it first"
    )]
    Nested {
        /// The file.
        path: PathBuf,
        /// Format of the compression.
        outer: &'static str,
        /// Format of the unpacked content.
        found: &'static str,
    },
    /// A compressed file that is broken.
    #[error("{path}: cannot be unpacked as {format}: {message} (is the file complete?)")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The format of the compression.
        format: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A Parquet file that is broken, or has columns that cannot be read.
    #[error("{path}: {fault}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: ParquetFault,
    },
    /// A file that unpacks to more bytes than a real text of its size would.
    #[error(
        "{path}: unpacks to more than {limit} bytes, which no text of its size does; unpack it yourself if it is meant so"
    )]
    Expansion {
        /// The file.
        path: PathBuf,
        /// Maximum number of bytes allowed.
        limit: u64,
    },
    /// A file with more lines than the number of rows that a file of its size can hold.
    #[error("{path}: more than {limit} lines, which no rows of a file of its size make; is it one object a line?")]
    ManyLines {
        /// The file.
        path: PathBuf,
        /// Maximum number of lines allowed.
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
        /// The system's limit on the number of files that a process has open.
        limit: u64,
    },
    /// The temporary file for unpacked rows failed.
    #[error(
        "unpacked rows are kept in a temporary file in {folder}, which fails: {source}; set TMPDIR to a folder with more room"
    )]
    Spool {
        /// The folder of the temporary file.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// No file has a row.
    #[error("no row in {}", list(paths))]
    Empty {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// More rows than one run may read.
    #[error("{rows} rows; at most {limit} are possible in one run, split the data")]
    TooManyRows {
        /// Number of rows in the files.
        rows: usize,
        /// Maximum number of rows of a run.
        limit: usize,
    },
    /// The file changed after it was opened.
    #[error("{path}: the file changed while it was in use; start again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// Lists the names of files, for messages.
pub(crate) fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
