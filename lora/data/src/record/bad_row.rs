//! What can be wrong with one row.

use super::reading::MAX_PAIRS;
use super::shape::{RowLayout, Shape};
use super::turn::known_roles;
use crate::source::bad_line::BadLine;
use crate::source::limits::MAX_ROW_BYTES;

/// What is wrong with one row. [`DataError::Row`](crate::set::error::DataError::Row) holds the file and the line.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRow {
    /// The line cannot be read as JSON.
    #[error(transparent)]
    Line(#[from] BadLine),
    /// Bytes that are not UTF-8.
    #[error("byte {at} of the line is not valid UTF-8; save the file as UTF-8")]
    Utf8 {
        /// 1-based byte within the line.
        at: usize,
    },
    /// Not JSON.
    #[error(
        "not valid JSON: {message} (column {column}); write rows with json.dumps, one a line: it escapes quotes and line ends"
    )]
    Json {
        /// The parser's message.
        message: String,
        /// 1-based byte within the line.
        column: usize,
    },
    /// A dictionary as Python prints it.
    #[error(
        "the row is a dictionary as Python prints it, with single quotes, and not JSON; write rows with json.dumps, or \
         convert the file: python3 -c 'import ast, json, sys; [print(json.dumps(ast.literal_eval(row))) for row in \
         sys.stdin]' < FILE > rows.jsonl"
    )]
    PythonRow,
    /// A number that JSON cannot express.
    #[error("column `{column}` is {found}, which is not valid JSON: write null instead, or leave the column out")]
    NotANumber {
        /// The column, at the top of the row.
        column: String,
        /// `NaN`, `Infinity` or `-Infinity`.
        found: &'static str,
    },
    /// JSON, but not an object.
    #[error("a row must be a JSON object, this is {found}")]
    NotObject {
        /// Kind of the value.
        found: &'static str,
    },
    /// The columns match no known shape.
    #[error(
        "columns {{{found}}} are no known shape; known: {}; --columns prompt=NAME,... names columns that have other names",
        Shape::ALL.map(Shape::columns).join(", ")
    )]
    UnknownShape {
        /// Up to twelve columns of the row.
        found: String,
    },
    /// The shape is clear, but one of its columns is missing.
    #[error(
        "`{missing}` is missing; the other columns are those of {shape}; if it has another name, give --columns {own}=NAME"
    )]
    Missing {
        /// The file's name of the column.
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
        found: RowLayout,
        /// Shape and form of the first row.
        first: RowLayout,
    },
    /// One row has both strings and conversations.
    #[error(
        "`{field}` is {found}, `{other}` is {prompt}: one row has one form (a prompt that is the text of a turn with which both answers of \
         a pair begin is passed over)"
    )]
    MixedForms {
        /// The prompt's column, or the first answer's if there is no prompt column.
        other: String,
        /// The form of that column.
        prompt: &'static str,
        /// The column whose form differs.
        field: String,
        /// The form of `field`.
        found: &'static str,
    },
    /// Two columns whose names suggest the prompt.
    #[error(
        "`{first}` and `{second}` may both be the prompt; say which with --columns prompt={first} or --columns prompt={second}"
    )]
    TwoPrompts {
        /// One of the two columns.
        first: &'static str,
        /// The other column.
        second: &'static str,
    },
    /// A prompt alone, but a row with an answer is needed.
    #[error("the row is a prompt alone: there is no answer in it")]
    NoAnswer,
    /// Texts that should become turns but have no prompt of their own.
    #[error(
        "--chat makes turns of a prompt and its answers, and a row of {shape} has no prompt; name it with --columns prompt=NAME"
    )]
    ChatWithoutPrompt {
        /// The shape's columns.
        shape: &'static str,
    },
    /// An answer without a turn of the assistant.
    #[error(
        "`{field}` has no turn of the assistant, only of the role `{roles}`; an answer needs a turn of the assistant, so \
         correct the role"
    )]
    NotTheAssistant {
        /// The answer's column.
        field: String,
        /// The roles that the answer has.
        roles: String,
    },
    /// A system column that is neither a text nor a system turn.
    #[error("`{field}` must be a text, or one turn of the role `system`")]
    NoSystemTurn {
        /// The column.
        field: String,
    },
    /// A conversation that should end with an answer, but does not.
    #[error("`{field}` must end with the answer: a turn of the assistant after another turn")]
    NoLastAnswer {
        /// The column.
        field: String,
    },
    /// A row with two answers and a conversation, which ends with a third answer.
    #[error(
        "`{field}` ends with a turn of the assistant that is not `{chosen}`, so it is not clear where the prompt ends; with \
         --columns prompt={field}, all of it is the prompt"
    )]
    ConversationGoesOn {
        /// The conversation's column.
        field: String,
        /// The column of the chosen answer.
        chosen: String,
    },
    /// A label that is neither true nor false.
    #[error("`{field}` is {found}, expected true or false, or 1 or 0")]
    Label {
        /// The column.
        field: String,
        /// The value.
        found: String,
    },
    /// A null, but a value is needed.
    #[error("`{field}` is null")]
    Null {
        /// The place of the null.
        field: String,
    },
    /// A turn without a content or without a role.
    #[error("`{field}` is null or missing: a turn has a `role` and a `content`")]
    IncompleteTurn {
        /// The place of the missing part.
        field: String,
    },
    /// A value of a kind that is not accepted at its place.
    #[error("`{field}` is {found}, expected {expected}")]
    Type {
        /// The place of the value.
        field: String,
        /// Kind of the value.
        found: &'static str,
        /// What is accepted at that place.
        expected: &'static str,
    },
    /// A number outside the range that its column allows.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange {
        /// The column.
        field: String,
        /// The number.
        found: f64,
        /// The range that the column allows.
        expected: &'static str,
    },
    /// A pair with a probability for only one of its answers.
    #[error("`{missing}` is missing or null, but the other answer has its probability: give both or neither")]
    HalfProbability {
        /// The column that is missing or null.
        missing: String,
    },
    /// A speaker that ShareGPT's data sets do not have.
    #[error("`{field}` is `{role}`, which is no role; known: {}", known_roles())]
    UnknownRole {
        /// The place of the speaker's name.
        field: String,
        /// The speaker's name.
        role: String,
    },
    /// An image or the like in a conversation.
    #[error("`{field}` is a part of type `{part}`; only text is read")]
    NotText {
        /// The place of the part.
        field: String,
        /// The part's type.
        part: String,
    },
    /// Tools given as text that is not JSON.
    #[error("`{field}` is text that is not valid JSON: {message}")]
    ToolsJson {
        /// The column.
        field: String,
        /// The parser's message.
        message: String,
    },
    /// A template variable that a row may not set.
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
    /// A prompt without tokens, which `generate` cannot continue.
    #[error("the prompt has no token: there is nothing to continue")]
    EmptyPrompt,
    /// Only turns of the assistant are scored, and the row has none.
    #[error(
        "no turn of the assistant has a token in what the chat template makes of the row, so --sft-on assistant scores nothing"
    )]
    NoAssistantTurn,
    /// The tokens of a turn cannot be found.
    #[error(
        "--sft-on assistant: the chat template renders turn {turn} differently once others follow it, so its tokens cannot be told; \
         give a template that marks them with {{% generation %}} (--chat-template FILE)"
    )]
    TurnChanges {
        /// 0-based place among the row's turns.
        turn: usize,
    },
    /// Too many turns: to find the tokens of each turn of the assistant, the conversation is rendered once more.
    #[error(
        "--sft-on assistant: {turns} turns in {bytes} bytes are too many to be told apart turn by turn; give a template that marks the \
         assistant's with {{% generation %}} (--chat-template FILE), or split the conversation"
    )]
    TooManyTurns {
        /// Turns of the row.
        turns: usize,
        /// Bytes of the text that the template renders.
        bytes: usize,
    },
    /// A list of turns or of answers without an element.
    #[error("`{field}` is an empty list")]
    EmptyList {
        /// The place of the list.
        field: String,
    },
    /// Two conversations that do not begin with the same turn.
    #[error(
        "`{chosen}` and `{rejected}` have no first turn in common, so there is no prompt; if another column is it, give --columns prompt=NAME"
    )]
    NoCommonTurn {
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
    },
    /// Two texts that do not share the turn marker that ends the prompts of the other rows.
    #[error(
        "{} (--implicit-prompt takes the longest common prefix for the prompt)",
        no_turn_marker(chosen, rejected, marker.as_deref())
    )]
    NoTurnMarker {
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
        /// The turn marker of the other rows, if nearly all rows have one.
        marker: Option<String>,
    },
    /// A conversation that is the beginning of the other one.
    #[error("`{field}` has no turn of its own: all its turns are those of the other answer")]
    NoOwnTurn {
        /// The column.
        field: String,
    },
    /// The number of rewards differs from the number of answers.
    #[error("`{completions}` has {}, but `{rewards}` has {}: each answer needs its score", counts.0, counts.1)]
    RewardCount {
        /// The column of the answers.
        completions: String,
        /// The column of the rewards.
        rewards: String,
        /// The number of answers and of rewards.
        counts: (usize, usize),
    },
    /// An answer that is an object, but no turn, as in UltraFeedback.
    #[error(
        "`{field}` is an object with the keys {keys}, and an answer is a text or a list of turns: write the texts as a list into \
         `completions`, and their scores into `rewards`"
    )]
    AnswerObject {
        /// The answer, by the file's name of its column.
        field: String,
        /// The first keys of the object.
        keys: String,
    },
    /// Too many answers to make a pair of every two.
    #[error(
        "--pairs all makes {pairs} pairs of {bytes} bytes of the row's {answers} answers; the limit is {MAX_PAIRS} pairs of {MAX_ROW_BYTES} \
         bytes: give --pairs best-worst, or split the answers over several rows"
    )]
    ManyPairs {
        /// Answers of the row.
        answers: u64,
        /// Pairs that `--pairs all` would make.
        pairs: u64,
        /// Bytes of all these pairs.
        bytes: u64,
    },
    /// Two equal answers: there is nothing to prefer.
    #[error("`{chosen}` and `{rejected}` are equal")]
    SameAnswers {
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
    },
    /// Two answers that differ as texts, but are the same tokens.
    #[error(
        "`{chosen}` and `{rejected}` differ, but are the same tokens (does the chat template drop the difference?)"
    )]
    SameTokens {
        /// The column of the chosen answer.
        chosen: String,
        /// The column of the rejected answer.
        rejected: String,
    },
    /// An answer that adds no token to those of the prompt.
    #[error("`{field}` has no token of its own after the prompt (does the chat template render it?)")]
    NoAnswerTokens {
        /// The answer, by the file's name of its column.
        field: String,
    },
    /// An answer that has only thoughts or calls, which the template leaves out.
    #[error(
        "`{field}`: the chat template renders nothing of the answer, which has only {parts}, so the model would learn to \
         say nothing; give a template that renders it (--chat-template FILE), or leave the row out"
    )]
    AnswerNotRendered {
        /// The answer, by the file's name of its column.
        field: String,
        /// The names of the parts that the answer has.
        parts: String,
    },
    /// The chat template refused the conversation or failed on it.
    #[error("chat template: {message}{}", without_system(message))]
    Template {
        /// The template's own message, or what went wrong.
        message: String,
    },
    /// The tokenizer failed on the text.
    #[error("tokenizer: {message}")]
    Tokenizer {
        /// The tokenizer's message.
        message: String,
    },
}

impl BadRow {
    /// Returns the kind of fault in a few words, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            BadRow::Utf8 { .. } => "not UTF-8",
            BadRow::Line(reason) => reason.label(),
            BadRow::Json { .. } | BadRow::NotANumber { .. } | BadRow::PythonRow => "not valid JSON",
            BadRow::NotObject { .. } => "not an object",
            BadRow::UnknownShape { .. } => "unknown columns",
            BadRow::Missing { .. } => "missing column",
            BadRow::OtherShape { .. } => "other shape than the first row",
            BadRow::MixedForms { .. } => "strings and conversations mixed",
            BadRow::TwoPrompts { .. } => "two columns that may be the prompt",
            BadRow::NoAnswer => "no answer",
            BadRow::ChatWithoutPrompt { .. } => "no prompt for --chat",
            BadRow::NotTheAssistant { .. } => "answer without a turn of the assistant",
            BadRow::NoSystemTurn { .. } => "system column without a turn of the system",
            BadRow::NoLastAnswer { .. } => "conversation that does not end with an answer",
            BadRow::ConversationGoesOn { .. } => "conversation with an answer of its own",
            BadRow::Label { .. } => "label that is neither true nor false",
            BadRow::Null { .. } => "null",
            BadRow::IncompleteTurn { .. } => "turn without role or content",
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
            BadRow::AnswerObject { .. } => "answers that are objects",
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

/// Says what is wrong with two texts that share no turn marker. `marker` is that of the other rows.
fn no_turn_marker(chosen: &str, rejected: &str, marker: Option<&str>) -> String {
    match marker {
        Some(marker) => {
            format!(
                "the common start of `{chosen}` and `{rejected}` has no {marker:?}, which ends the prompts of the data"
            )
        }
        None => format!("`{chosen}` and `{rejected}` are texts without a prompt column, unlike most rows of the data"),
    }
}

/// Says what to do about a template that refuses a turn of the system. Empty if the message is about something else.
fn without_system(message: &str) -> &'static str {
    let message = message.to_lowercase();
    // a template that complains of alternation "after the optional system message" does not refuse the system turn
    let is_of_system = message.contains("system") && message.contains("support") && !message.contains("alternate");
    let advice =
        "; write what the system says into the user's first turn, or give another template (--chat-template FILE)";
    if is_of_system { advice } else { "" }
}
