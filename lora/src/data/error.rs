//! What can be wrong with data, tokenizer and template files. All of it is bad input: exit code 3.

use std::path::PathBuf;

use super::encode::DropReason;
use super::hub::HubFault;
use super::parquet::ParquetFault;
use super::reader::MAX_ROW_BYTES;
use super::records::{Kind, MAX_PAIRS, Shape};
use super::survey::{DropKind, Dropped};
use super::template::TemplateError;
use super::tokenizer::TokenizerError;
use super::turns::known_roles;

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
    #[error("not valid JSON: {message} (column {column})")]
    Json {
        /// The parser's words.
        message: String,
        /// 1-based byte within the line.
        column: usize,
    },
    /// A dictionary as Python prints it.
    #[error(
        "the row is what Python prints of a dictionary, with single quotes, and no JSON; write rows with json.dumps, or mend the file: \
         python3 -c 'import ast, json, sys; [print(json.dumps(ast.literal_eval(row))) for row in sys.stdin]' < FILE > rows.jsonl"
    )]
    PythonRow,
    /// A number that JSON has not.
    #[error("column `{column}` is {found}, which JSON has not: write null instead, or leave the column out")]
    NotANumber {
        /// The column, at the top of the row.
        column: String,
        /// As it is written.
        found: &'static str,
    },
    /// A row of CSV with another number of cells than the header.
    #[error("the row has {}, the header {header}; is a delimiter or a line end in a cell without quotes?", cells(*found))]
    Cells {
        /// Cells of the row.
        found: usize,
        /// Columns.
        header: usize,
    },
    /// A value of a Parquet or CSV file that no JSON could hold, or that makes the row too long.
    #[error("column `{column}`: {message}")]
    Value {
        /// Path of the column.
        column: String,
        /// What is wrong with it.
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
        "columns {{{found}}} are no known shape; known: {}; --columns prompt=NAME,... names columns that are called otherwise",
        Shape::ALL.map(Shape::columns).join(", ")
    )]
    UnknownShape {
        /// The row's columns, the first twelve.
        found: String,
    },
    /// A shape is recognisable, and a column of it is missing.
    #[error(
        "`{missing}` is missing; the other columns are those of {shape}; --columns {own}=NAME names one that is called otherwise"
    )]
    Missing {
        /// The column, as the file would call it.
        missing: String,
        /// Our name of it.
        own: &'static str,
        /// The shape's columns, by our names.
        shape: &'static str,
    },
    /// The shape differs from that of the first row.
    #[error("the row is {found}, the first row of the run is {first}; put different shapes into separate runs")]
    OtherShape {
        /// Shape and form of this row.
        found: Kind,
        /// Shape and form of the first row.
        first: Kind,
    },
    /// Strings and conversations in one row.
    #[error(
        "`{field}` is {found}, `{other}` is {prompt}: one row has one form (a prompt that is the text of a turn with which both answers of \
         a pair begin is passed over)"
    )]
    MixedForms {
        /// The prompt's column (without one: the first answer's).
        other: String,
        /// Its form.
        prompt: &'static str,
        /// The column that differs.
        field: String,
        /// Its form.
        found: &'static str,
    },
    /// Two columns that are called like a prompt.
    #[error(
        "`{first}` and `{second}` may both be the prompt; say which with --columns prompt={first} or --columns prompt={second}"
    )]
    TwoPrompts {
        /// One of them.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// Texts that are to be turns, without a prompt of their own.
    #[error(
        "--chat makes turns of a prompt and its answers, and a row of {shape} has no prompt; name it with --columns prompt=NAME"
    )]
    ChatWithoutPrompt {
        /// The shape's columns.
        shape: &'static str,
    },
    /// An answer that is not the assistant's.
    #[error(
        "`{field}` has no turn of the assistant, only of the role `{roles}`: an answer is what the assistant says, so mend the role there"
    )]
    NotTheAssistant {
        /// The answer's column.
        field: String,
        /// The roles that are there.
        roles: String,
    },
    /// A column of the system that is no turn of it.
    #[error("`{field}` must be a text, or one turn of the role `system`")]
    NoSystemTurn {
        /// The column.
        field: String,
    },
    /// A conversation whose last turn should be an answer.
    #[error(
        "`{field}` does not end with a turn of the assistant that follows another turn, and that is the answer there"
    )]
    NoLastAnswer {
        /// The column.
        field: String,
    },
    /// A conversation beside two answers that ends with a third.
    #[error(
        "`{field}` ends with a turn of the assistant that is not `{chosen}`, so where the prompt ends is not clear; with --columns \
         prompt={field} all of it is the prompt"
    )]
    ConversationGoesOn {
        /// The conversation's column.
        field: String,
        /// That of the preferred answer.
        chosen: String,
    },
    /// A label that is neither true nor false.
    #[error("`{field}` is {found}, expected true or false, or 1 or 0")]
    Label {
        /// The column.
        field: String,
        /// What stands there.
        found: String,
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
    /// A number outside what its column may hold.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange {
        /// The column.
        field: String,
        /// The number.
        found: f64,
        /// What is accepted there.
        expected: &'static str,
    },
    /// One of the two probabilities of a pair.
    #[error("`{missing}` is missing or null, but the other answer has its probability: give both or neither")]
    HalfProbability {
        /// The column.
        missing: String,
    },
    /// A speaker that ShareGPT's data sets do not have.
    #[error("`{field}` is `{role}`, which is no role; known: {}", known_roles())]
    UnknownRole {
        /// Where.
        field: String,
        /// What stands there.
        role: String,
    },
    /// An image or the like in a conversation.
    #[error("`{field}` is a part of type `{part}`; only text is read")]
    NotText {
        /// Where.
        field: String,
        /// The part's type.
        part: String,
    },
    /// Tools given as text that is not JSON.
    #[error("`{field}` is text that is not valid JSON: {message}")]
    ToolsJson {
        /// The column.
        field: String,
        /// The parser's words.
        message: String,
    },
    /// A variable of the template that a row does not decide.
    #[error("`{field}` sets `{name}`, which is no variable of a chat template that a row may set")]
    TemplateKwarg {
        /// The column.
        field: String,
        /// The variable.
        name: &'static str,
    },
    /// A row without a prompt, for generation.
    #[error("a row of {shape} has no turn or prompt to continue")]
    NothingToContinue {
        /// The shape's columns.
        shape: &'static str,
    },
    /// A prompt of no tokens, for generation.
    #[error("the prompt has no token: there is nothing to continue")]
    EmptyPrompt,
    /// No turn of the assistant, and only its turns are scored.
    #[error(
        "no turn of the assistant has a token in what the chat template makes of the row, so --sft-on assistant scores nothing"
    )]
    NoAssistantTurn,
    /// Where a turn's tokens are cannot be told.
    #[error(
        "--sft-on assistant: the chat template renders turn {turn} differently once others follow it, so its tokens cannot be told; \
         give a template that marks them with {{% generation %}} (--chat-template FILE)"
    )]
    TurnChanges {
        /// 0-based place among the row's turns.
        turn: usize,
    },
    /// More turns than can be told apart by rendering the conversation again for each.
    #[error(
        "--sft-on assistant: {turns} turns in {bytes} bytes are too many to be told apart turn by turn; give a template that marks the \
         assistant's with {{% generation %}} (--chat-template FILE), or split the conversation"
    )]
    TooManyTurns {
        /// Turns of the row.
        turns: usize,
        /// Bytes that the template makes of them.
        bytes: usize,
    },
    /// A list of turns or of answers without an element.
    #[error("`{field}` is an empty list")]
    EmptyList {
        /// Where.
        field: String,
    },
    /// Two conversations without a common first turn.
    #[error("`{chosen}` and `{rejected}` have no first turn in common, so there is no prompt")]
    NoCommonTurn {
        /// The column of the preferred answer.
        chosen: String,
        /// That of the other one.
        rejected: String,
    },
    /// Two texts that do not share the mark with which the prompts of the others end.
    #[error(
        "{} (--implicit-prompt takes the longest common prefix for the prompt)",
        no_turn_marker(chosen, rejected, marker.as_deref())
    )]
    NoTurnMarker {
        /// The column of the preferred answer.
        chosen: String,
        /// That of the other one.
        rejected: String,
        /// The mark, if the first rows have one.
        marker: Option<String>,
    },
    /// A conversation that is the beginning of the other.
    #[error("`{field}` has no turn of its own: all its turns are those of the other answer")]
    NoOwnTurn {
        /// The column.
        field: String,
    },
    /// As many rewards as answers are needed.
    #[error("`{completions}` has {}, but `{rewards}` has {}: each answer needs its score", counts.0, counts.1)]
    RewardCount {
        /// The column of the answers.
        completions: String,
        /// That of the rewards.
        rewards: String,
        /// How many there are of each.
        counts: (usize, usize),
    },
    /// Answers of which every two would be a pair.
    #[error(
        "--pairs all makes {pairs} pairs of {bytes} bytes of the row's {answers} answers; the limit is {MAX_PAIRS} pairs of {MAX_ROW_BYTES} \
         bytes: give --pairs best-worst, or split the answers over several rows"
    )]
    ManyPairs {
        /// Answers of the row.
        answers: u64,
        /// Pairs that they would make.
        pairs: u64,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// Nothing to prefer.
    #[error("`{chosen}` and `{rejected}` are equal")]
    SameAnswers {
        /// The column of the preferred answer.
        chosen: String,
        /// That of the other one.
        rejected: String,
    },
    /// Different texts, the same tokens.
    #[error(
        "`{chosen}` and `{rejected}` differ, but are the same tokens (does the chat template drop the difference?)"
    )]
    SameTokens {
        /// The column of the preferred answer.
        chosen: String,
        /// That of the other one.
        rejected: String,
    },
    /// An answer that the template or the tokenizer left nothing of.
    #[error("`{field}` has no token of its own after the prompt (does the chat template render it?)")]
    NoAnswerTokens {
        /// Which answer.
        field: String,
    },
    /// An answer without a word, whose thoughts and calls the template leaves out.
    #[error(
        "`{field}`: nothing of the answer reaches the text, for it holds {parts} alone and the chat template leaves that out: the model \
         would learn to say nothing; give a template that renders it (--chat-template FILE), or leave the row out"
    )]
    AnswerNotRendered {
        /// Which answer.
        field: String,
        /// What it holds.
        parts: String,
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

impl BadRow {
    /// The kind of fault in a few words, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            BadRow::Utf8 { .. } => "not UTF-8",
            BadRow::TooLong { .. } => "line too long",
            BadRow::Json { .. } | BadRow::NotANumber { .. } | BadRow::PythonRow => "not valid JSON",
            BadRow::Cells { .. } => "other number of cells than the header",
            BadRow::Value { .. } => "value that cannot be read",
            BadRow::NotObject { .. } => "not an object",
            BadRow::UnknownShape { .. } => "unknown columns",
            BadRow::Missing { .. } => "missing column",
            BadRow::OtherShape { .. } => "other shape than the first row",
            BadRow::MixedForms { .. } => "strings and conversations mixed",
            BadRow::TwoPrompts { .. } => "two columns that may be the prompt",
            BadRow::ChatWithoutPrompt { .. } => "no prompt for --chat",
            BadRow::NotTheAssistant { .. } => "answer without a turn of the assistant",
            BadRow::NoSystemTurn { .. } => "system column without a turn of the system",
            BadRow::NoLastAnswer { .. } => "conversation that does not end with an answer",
            BadRow::ConversationGoesOn { .. } => "conversation with an answer of its own",
            BadRow::Label { .. } => "label that is neither true nor false",
            BadRow::Null { .. } => "null",
            BadRow::Type { .. } => "wrong type",
            BadRow::OutOfRange { .. } => "number out of range",
            BadRow::HalfProbability { .. } => "one of two probabilities",
            BadRow::UnknownRole { .. } => "unknown role",
            BadRow::NotText { .. } => "content that is not text",
            BadRow::ToolsJson { .. } => "tools are not valid JSON",
            BadRow::TemplateKwarg { .. } => "variable that a row may not set",
            BadRow::NothingToContinue { .. } | BadRow::EmptyPrompt => "nothing to continue",
            BadRow::NoAssistantTurn => "no turn of the assistant",
            BadRow::TurnChanges { .. } => "turns that change when others follow",
            BadRow::TooManyTurns { .. } => "too many turns",
            BadRow::EmptyList { .. } => "empty list",
            BadRow::NoCommonTurn { .. } | BadRow::NoTurnMarker { .. } | BadRow::NoOwnTurn { .. } => {
                "no implicit prompt"
            }
            BadRow::RewardCount { .. } => "completions and rewards differ in number",
            BadRow::ManyPairs { .. } => "too many pairs of one row",
            BadRow::SameAnswers { .. } => "chosen equals rejected",
            BadRow::SameTokens { .. } => "chosen and rejected are the same tokens",
            BadRow::NoAnswerTokens { .. } => "answer without tokens",
            BadRow::AnswerNotRendered { .. } => "answer that the chat template leaves out",
            BadRow::Template { .. } => "refused by the chat template",
            BadRow::Tokenizer { .. } => "refused by the tokenizer",
        }
    }
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
    #[error(
        "{path:?}: its name is not UTF-8, so no pattern matches it, and it would be passed over by {pattern}; rename it"
    )]
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
    /// The id of a data set that is not in the local Hugging Face cache as it is asked for.
    #[error("{id}: {fault}")]
    Hub {
        /// As it was given.
        id: String,
        /// What is wrong.
        fault: Box<HubFault>,
    },
    /// A format that is not read.
    #[error("{path}: is {found}; what is read: JSONL, JSON arrays and CSV, as they are or compressed by gzip or zstd, and Parquet", path = path.display())]
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
        "{path}: is a JSON object over several lines; rows are read one object a line (JSONL), so write it as that first: \
         jq -c . {path} > rows.jsonl",
        path = path.display()
    )]
    SeveralLines {
        /// The file.
        path: PathBuf,
    },
    /// YAML.
    #[error(
        "{path}: is YAML; rows are read one JSON object a line (JSONL), so write it as that first: python3 -c 'import json, yaml; \
         [print(json.dumps(row)) for row in yaml.safe_load(open(\"{path}\"))]' > rows.jsonl",
        path = path.display()
    )]
    Yaml {
        /// The file.
        path: PathBuf,
    },
    /// One object around all rows.
    #[error(
        "{path}: is one JSON object with its rows under `{key}`; rows are read one object a line (JSONL), so write them as that first: \
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
        "{path}: is one JSON object of columns; rows are read one object a line (JSONL), so write it as that first: python3 -c \
         'import pandas; pandas.read_json(\"{path}\").to_json(\"rows.jsonl\", orient=\"records\", lines=True)'",
        path = path.display()
    )]
    ByColumn {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file that holds something else than text.
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
        /// What its unread columns may be.
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
    /// So many rows are left out that what is learned is another data set.
    #[error(
        "{dropped} of {rows} rows are dropped, more than a tenth; {} of them: {}, the first at {}:{}: {}; {}, or give --allow-drops to go on \
         without them",
        most.rows, most.label, most.path.display(), most.line, most.first, what_to_do(most.kind)
    )]
    ManyDropped {
        /// Rows that are left out.
        dropped: usize,
        /// Rows that could be used, those included.
        rows: usize,
        /// The reason that most of them have.
        most: Box<Dropped>,
    },
    /// No row is left to use.
    #[error("none of {rows} rows can be used; the first: {path}:{line}: {reason}", path = path.display())]
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
    /// Pairs of texts without a prompt column, and nothing says where their answers begin.
    #[error(
        "{path}:{line}: `{chosen}` and `{rejected}` are texts without a prompt column, and no turn marker, as \"\\n\\nAssistant:\" is one, \
         stands in what 95 % of the first {rows} such rows share: where the answers begin would be a guess; name the column of the \
         prompt (--columns prompt={column}), or give --implicit-prompt to take the longest common prefix for it",
        path = path.display()
    )]
    NoTurnMarker {
        /// The file.
        path: PathBuf,
        /// 1-based line of the first.
        line: u64,
        /// Rows that were looked at.
        rows: usize,
        /// The column of the preferred answer.
        chosen: String,
        /// That of the other one.
        rejected: String,
        /// The unread column that is called like a prompt, or a word for it.
        column: String,
    },
    /// Empty prompts beside a column that is called like one.
    #[error(
        "{path}:{line}: the prompt is empty, in {rows} of the first {of} rows, and the column `{column}` is not read; give \
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
    /// Answers of which the template prints nothing.
    #[error(
        "{path}:{line}: the chat template leaves out what `{at}` says, in {rows} of the first {of} rows: nothing would be learned from \
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
        /// Where in the first of them.
        at: String,
    },
    /// Turns that are written as text, in a form that is not read as turns.
    #[error(
        "{path}:{line}: `{column}` is text that holds turns as {notation}, in {rows} of the first {of} rows, and would be learned with its \
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
        /// How they are written.
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
    /// Conversations, and the model's own chat template cannot be used.
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

/// What keeps rows that are dropped.
fn what_to_do(kind: DropKind) -> &'static str {
    match kind {
        DropKind::Length => "raise --max-length",
        DropKind::Prompt => "see that the column of the prompt is read (--columns prompt=NAME)",
        DropKind::NoPair => "give answers of different scores",
        DropKind::Bad => "mend the rows",
    }
}

/// What is wrong with two texts without a common mark.
fn no_turn_marker(chosen: &str, rejected: &str, marker: Option<&str>) -> String {
    match marker {
        Some(marker) => {
            format!("what `{chosen}` and `{rejected}` share at the start has no {marker:?}, with which the prompts end")
        }
        None => format!(
            "`{chosen}` and `{rejected}` are texts without a prompt column, which the first rows of the data are not"
        ),
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn cells(n: usize) -> String {
    if n == 1 { "1 cell".to_owned() } else { format!("{n} cells") }
}
