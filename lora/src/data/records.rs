//! A row of data as it stands in the file, before any template or token: shapes, their columns, implicit prompts.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::BadRow;
use super::columns::{ColumnMap, Columns, Seen, words_of, wrong_type};
use super::numbers::{NUMBER_COLUMNS, RowNumbers};
use super::reading::{ImplicitPrompt, Reading};
use super::sanity::{cut_repeated_text, cut_repeated_turns};
use super::template::TemplateInputs;
use super::tool_schemas::drop_null_properties;
use super::turns::{is_assistant, list, text, turns};

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// 0-based number of the record over all files in their order; blank lines are not records.
    pub row: usize,
    /// The row's `id`, echoed in outputs; `None` where it has none or null.
    pub id: Option<Value>,
    /// The columns that the row had.
    pub shape: Shape,
    /// What the answers answer; nothing (no turn, no character) for a whole conversation and for a text.
    pub prompt: Text,
    /// Two answers for pairs (chosen, rejected), one for labelled rows and sequences (the whole of `messages` or `text`), one
    /// or more for scored rows, none for a prompt alone.
    pub answers: Vec<Text>,
    /// What the data says about the answers.
    pub target: RecordTarget,
    /// What the chat template gets beside the turns.
    pub inputs: TemplateInputs,
    /// Numbers beside a pair.
    pub numbers: RowNumbers,
}

/// A text or the turns of a conversation. Prompt and answers of one row have the same form.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A string, tokenised as it is.
    Plain(String),
    /// Turns: objects with `role` and `content` (a string) and whatever else the template reads, keys in the file's order.
    Turns(Vec<Value>),
}

/// What a record says about its answers.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordTarget {
    /// The first answer is preferred to the second.
    Pair,
    /// The one answer is desirable, or is not.
    Label(bool),
    /// One finite number an answer, larger is better.
    Rewards(Vec<f64>),
    /// The one answer is to be learned as it is.
    Sequence,
    /// A prompt alone, for generation.
    Prompt,
}

/// The columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// `{prompt, chosen, rejected}`
    Pair,
    /// `{chosen, rejected}`: the prompt is what the two have in common at the start.
    PairImplicitPrompt,
    /// `{prompt, completion, label}`
    Labelled,
    /// `{prompt, completions, rewards}`
    Scored,
    /// `{prompt, completion}`
    Completion,
    /// `{messages}`
    Messages,
    /// `{text}`
    Text,
    /// `{prompt}`
    Prompt,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 8] = [
        Shape::Pair,
        Shape::PairImplicitPrompt,
        Shape::Labelled,
        Shape::Scored,
        Shape::Completion,
        Shape::Messages,
        Shape::Text,
        Shape::Prompt,
    ];

    /// The columns as a user writes them.
    pub fn columns(self) -> &'static str {
        match self {
            Shape::Pair => "{prompt, chosen, rejected}",
            Shape::PairImplicitPrompt => "{chosen, rejected}",
            Shape::Labelled => "{prompt, completion, label}",
            Shape::Scored => "{prompt, completions, rewards}",
            Shape::Completion => "{prompt, completion}",
            Shape::Messages => "{messages}",
            Shape::Text => "{text}",
            Shape::Prompt => "{prompt}",
        }
    }

    /// Their names, without those that any shape may have.
    fn names(self) -> &'static [&'static str] {
        match self {
            Shape::Pair => &["prompt", "chosen", "rejected"],
            Shape::PairImplicitPrompt => &["chosen", "rejected"],
            Shape::Labelled => &["prompt", "completion", "label"],
            Shape::Scored => &["prompt", "completions", "rewards"],
            Shape::Completion => &["prompt", "completion"],
            Shape::Messages => &["messages"],
            Shape::Text => &["text"],
            Shape::Prompt => &["prompt"],
        }
    }

    /// Whether its rows are pairs.
    pub fn is_pair(self) -> bool {
        matches!(self, Shape::Pair | Shape::PairImplicitPrompt)
    }

    /// Whether its rows are sequences to learn as they are.
    pub fn is_sequence(self) -> bool {
        matches!(self, Shape::Completion | Shape::Messages | Shape::Text)
    }

    /// The file's names of the answers' columns, in the order of [`Record::answers`]; those of scored rows are
    /// `completions[i]`.
    pub fn answer_column(self, answer: usize, map: &ColumnMap) -> String {
        let own = match (self, answer) {
            (Shape::Pair | Shape::PairImplicitPrompt, 0) => "chosen",
            (Shape::Pair | Shape::PairImplicitPrompt, _) => "rejected",
            (Shape::Scored, i) => return format!("{}[{i}]", map.column("completions")),
            (Shape::Messages, _) => "messages",
            (Shape::Text, _) => "text",
            (Shape::Labelled | Shape::Completion | Shape::Prompt, _) => "completion",
        };
        map.column(own).to_owned()
    }
}

/// Strings or conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Shape and form of a row. All rows of a run have those of its first row, but pairs may have a prompt or share it implicitly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kind {
    /// The columns.
    pub shape: Shape,
    /// Strings or conversations.
    pub form: Form,
}

impl Kind {
    /// Whether rows of the two kinds may stand in one run.
    pub fn mixes_with(self, other: Kind) -> bool {
        self.form == other.form && (self.shape == other.shape || self.shape.is_pair() && other.shape.is_pair())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.shape.columns(), self.form.describe())
    }
}

impl Text {
    /// Which of the two it is.
    pub fn form(&self) -> Form {
        match self {
            Text::Plain(_) => Form::Plain,
            Text::Turns(_) => Form::Conversational,
        }
    }
}

/// A record, and what else its row had.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The record.
    pub record: Record,
    /// The file's names of its other columns.
    pub ignored_columns: Vec<String>,
    /// Whether the prompt stood again at the start of every answer, and was cut there.
    pub is_prompt_cut: bool,
}

impl Record {
    /// Parses the bytes of one line as record number `row`, in the way of [`Reading::default`].
    ///
    /// # Errors
    /// [`BadRow`], naming the column.
    pub fn parse(row: usize, line: &[u8]) -> Result<Parsed, BadRow> {
        Record::parse_with(row, line, &Reading::default())
    }

    /// Parses the bytes of one line as record number `row`.
    ///
    /// # Errors
    /// [`BadRow`], naming the column as the file does.
    pub fn parse_with(row: usize, line: &[u8], reading: &Reading) -> Result<Parsed, BadRow> {
        Record::parse_seen(row, line, reading, &mut None)
    }

    /// As [`Record::parse_with`]; `seen` is which entries of the map the row has a column for, once it is an object: a row that
    /// is bad has its columns all the same.
    pub(super) fn parse_seen(
        row: usize,
        line: &[u8],
        reading: &Reading,
        seen: &mut Option<Seen>,
    ) -> Result<Parsed, BadRow> {
        let line = std::str::from_utf8(line).map_err(|e| BadRow::Utf8 { at: e.valid_up_to() + 1 })?;
        let map = &reading.columns;
        let mut columns = Columns::parse(line, map)?;
        *seen = Some(columns.seen());
        let mut shape = shape(&columns)?;

        let id = match columns.take("id") {
            None | Some(Value::Null) => None,
            Some(id @ (Value::Array(_) | Value::Object(_))) => {
                return Err(wrong_type(columns.column("id"), &id, "a string, a number or a boolean"));
            }
            id => id,
        };
        let mut numbers = RowNumbers::default();
        let (mut prompt, mut answers, target) = match shape {
            Shape::Pair => {
                let prompt = take_text(&mut columns, "prompt")?;
                let (chosen, rejected) = (take_text(&mut columns, "chosen")?, take_text(&mut columns, "rejected")?);
                numbers = RowNumbers::take(&mut columns)?;
                if is_repeated(&prompt, &chosen, &rejected) {
                    shape = Shape::PairImplicitPrompt;
                    let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected, reading)?;
                    (prompt, vec![chosen, rejected], RecordTarget::Pair)
                } else {
                    (prompt, vec![chosen, rejected], RecordTarget::Pair)
                }
            }
            Shape::PairImplicitPrompt => {
                let (chosen, rejected) = (take_text(&mut columns, "chosen")?, take_text(&mut columns, "rejected")?);
                numbers = RowNumbers::take(&mut columns)?;
                let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected, reading)?;
                (prompt, vec![chosen, rejected], RecordTarget::Pair)
            }
            Shape::Labelled => {
                let (prompt, completion) = (take_text(&mut columns, "prompt")?, take_text(&mut columns, "completion")?);
                let label = match columns.take("label") {
                    Some(Value::Bool(label)) => label,
                    other => {
                        return Err(wrong_type(columns.column("label"), &other.unwrap_or_default(), "true or false"));
                    }
                };
                (prompt, vec![completion], RecordTarget::Label(label))
            }
            Shape::Scored => {
                let prompt = take_text(&mut columns, "prompt")?;
                let (answers, rewards) = take_scored(&mut columns)?;
                (prompt, answers, RecordTarget::Rewards(rewards))
            }
            Shape::Completion => {
                let (prompt, completion) = (take_text(&mut columns, "prompt")?, take_text(&mut columns, "completion")?);
                (prompt, vec![completion], RecordTarget::Sequence)
            }
            Shape::Messages => {
                let messages = turns(&columns.column("messages"), columns.take("messages").unwrap_or_default())?;
                (Text::Turns(Vec::new()), vec![Text::Turns(messages)], RecordTarget::Sequence)
            }
            Shape::Text => match columns.take("text").unwrap_or_default() {
                Value::String(text) => (Text::Plain(String::new()), vec![Text::Plain(text)], RecordTarget::Sequence),
                other => return Err(wrong_type(columns.column("text"), &other, "a string")),
            },
            Shape::Prompt => (take_text(&mut columns, "prompt")?, Vec::new(), RecordTarget::Prompt),
        };
        if let Some(other) = answers.iter().position(|answer| answer.form() != prompt.form()) {
            return Err(BadRow::MixedForms {
                other: columns.column("prompt"),
                prompt: prompt.form().describe(),
                field: shape.answer_column(other, map),
                found: answers[other].form().describe(),
            });
        }
        let is_prompt_cut = cut_repeated_turns(&prompt, &mut answers)
            || reading.decided.repeated_prompts
                && shape != Shape::PairImplicitPrompt
                && cut_repeated_text(&mut prompt, &mut answers);
        if target == RecordTarget::Pair && answers[0] == answers[1] {
            return Err(BadRow::same_answers(map));
        }

        let mut used = vec!["id"];
        used.extend(shape.names());
        if shape.is_pair() {
            used.extend(NUMBER_COLUMNS);
        }
        let mut inputs = TemplateInputs::default();
        if prompt.form() == Form::Conversational {
            inputs = take_inputs(&mut columns)?;
            used.extend(["tools", "chat_template_kwargs"]);
        }
        let ignored_columns = columns.names_except(&used);
        let record = Record { row, id, shape, prompt, answers, target, inputs, numbers };
        Ok(Parsed { record, ignored_columns, is_prompt_cut })
    }

    /// Shape and form.
    pub fn kind(&self) -> Kind {
        Kind { shape: self.shape, form: self.prompt.form() }
    }

    /// A number for the prompt: the same for the same text or turns, another one for others but once in 2^32. The prompt of a
    /// whole conversation is what stands before the assistant's last turns; a row without one, as a text is, counts by its
    /// first answer.
    pub fn prompt_group(&self) -> u32 {
        let hash_turns =
            |turns: &[Value]| blake3::hash(serde_json::to_string(turns).expect("JSON values print").as_bytes());
        let hash = match (&self.prompt, self.answers.first()) {
            (Text::Plain(text), Some(Text::Plain(answer))) if text.is_empty() => blake3::hash(answer.as_bytes()),
            (Text::Plain(text), _) => blake3::hash(text.as_bytes()),
            (Text::Turns(prompt), Some(Text::Turns(answer))) if prompt.is_empty() => {
                hash_turns(before_last_said(answer))
            }
            (Text::Turns(prompt), _) => hash_turns(prompt),
        };
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A pair as two labelled rows, the chosen answer first; any other record as it is.
    pub fn unpaired(self) -> Vec<Record> {
        if self.target != RecordTarget::Pair {
            return vec![self];
        }
        let Record { row, id, shape, prompt, answers, inputs, numbers, .. } = self;
        answers
            .into_iter()
            .zip([true, false])
            .map(|(answer, label)| Record {
                row,
                id: id.clone(),
                shape,
                prompt: prompt.clone(),
                answers: vec![answer],
                target: RecordTarget::Label(label),
                inputs: inputs.clone(),
                numbers,
            })
            .collect()
    }

    /// A pair as the sequence of its prompt and its chosen answer; any other record as it is.
    pub fn as_sequence(mut self) -> Record {
        if self.target == RecordTarget::Pair {
            self.answers.truncate(1);
            self.target = RecordTarget::Sequence;
        }
        self
    }

    /// What a model is given to continue: the prompt, and of a whole conversation the turns before the assistant's last ones.
    ///
    /// # Errors
    /// [`BadRow::NothingToContinue`] for a text, and for a conversation without such a turn.
    pub fn to_continue(&self) -> Result<Text, BadRow> {
        match (self.shape, self.answers.first()) {
            (Shape::Messages, Some(Text::Turns(turns))) => {
                let answered = turns.iter().rposition(|turn| !is_assistant(turn)).map_or(0, |last| last + 1);
                match answered {
                    0 => Err(BadRow::NothingToContinue { shape: self.shape.columns() }),
                    turns_before => Ok(Text::Turns(turns[..turns_before].to_vec())),
                }
            }
            (Shape::Messages | Shape::Text, _) => Err(BadRow::NothingToContinue { shape: self.shape.columns() }),
            _ => Ok(self.prompt.clone()),
        }
    }
}

/// The turns before the assistant's last ones; all, where nothing stands before them or the assistant says nothing.
fn before_last_said(turns: &[Value]) -> &[Value] {
    let end = turns.iter().rposition(is_assistant).map_or(0, |last| last + 1);
    let start = turns[..end].iter().rposition(|turn| !is_assistant(turn)).map_or(0, |before| before + 1);
    if start == 0 { turns } else { &turns[..start] }
}

/// Whether a prompt that is a text is that of one of the turns with which both conversations begin, as UltraFeedback has it:
/// the turns are the prompt then, and the text is passed over, as TRL 1.16 `maybe_extract_prompt` does.
fn is_repeated(prompt: &Text, chosen: &Text, rejected: &Text) -> bool {
    let (Text::Plain(prompt), Text::Turns(chosen), Text::Turns(rejected)) = (prompt, chosen, rejected) else {
        return false;
    };
    let common = chosen.iter().zip(rejected).take_while(|(a, b)| a == b);
    let content = |turn: &Value| turn.get("content").and_then(Value::as_str).map(str::trim).map(str::to_owned);
    common.into_iter().any(|(turn, _)| content(turn).is_some_and(|content| content == prompt.trim()))
}

impl BadRow {
    /// The error of a pair whose answers are equal, by the file's names of their columns.
    fn same_answers(map: &ColumnMap) -> BadRow {
        let name = |own: &str| map.column(own).to_owned();
        BadRow::SameAnswers { chosen: name("chosen"), rejected: name("rejected") }
    }
}

/// Splits a pair whose prompt is what the two have in common at the start.
///
/// Text: by [`ImplicitPrompt`]; turns: the common turns. Where one side is a prefix of the other, all of it is common (TRL's
/// loop ends one short there and moves the last shared character or turn into the answers); an empty text is then a possible
/// answer, no turn at all is not.
fn split_common_prefix(chosen: Text, rejected: Text, reading: &Reading) -> Result<(Text, Text, Text), BadRow> {
    let name = |own: &str| reading.columns.column(own).to_owned();
    if chosen == rejected {
        return Err(BadRow::same_answers(&reading.columns));
    }
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let pairs = chosen.chars().zip(rejected.chars());
            let common: usize = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            let shared = &chosen[..common];
            let marker = reading.decided.turn_marker.as_ref();
            let end = match reading.implicit_prompt {
                ImplicitPrompt::Longest => Some(shared.strip_suffix(' ').unwrap_or(shared).len()),
                ImplicitPrompt::TurnMarker => marker.and_then(|marker| marker.end_in(shared)),
            };
            let end = end.ok_or_else(|| BadRow::NoTurnMarker {
                chosen: name("chosen"),
                rejected: name("rejected"),
                marker: marker.map(ToString::to_string),
            })?;
            let rest = |text: &str| Text::Plain(text[end..].to_owned());
            Ok((Text::Plain(chosen[..end].to_owned()), rest(&chosen), rest(&rejected)))
        }
        (Text::Turns(mut chosen), Text::Turns(mut rejected)) => {
            let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            if common == 0 {
                return Err(BadRow::NoCommonTurn { chosen: name("chosen"), rejected: name("rejected") });
            }
            let rest = chosen.split_off(common);
            let other = rejected.split_off(common);
            for (field, turns) in [("chosen", &rest), ("rejected", &other)] {
                if turns.is_empty() {
                    return Err(BadRow::NoOwnTurn { field: name(field) });
                }
            }
            Ok((Text::Turns(chosen), Text::Turns(rest), Text::Turns(other)))
        }
        (chosen, rejected) => Err(BadRow::MixedForms {
            other: name("chosen"),
            prompt: chosen.form().describe(),
            field: name("rejected"),
            found: rejected.form().describe(),
        }),
    }
}

/// The shape that the names of the columns are.
fn shape(columns: &Columns<'_>) -> Result<Shape, BadRow> {
    let all_of = |shape: Shape| match shape.names().iter().find(|name| !columns.has(name)) {
        None => Ok(shape),
        Some(missing) => Err(BadRow::Missing { missing: columns.column(missing), shape: shape.columns() }),
    };
    let has = |name: &str| columns.has(name);
    if has("chosen") || has("rejected") {
        return all_of(if has("prompt") { Shape::Pair } else { Shape::PairImplicitPrompt });
    }
    if has("completions") || has("rewards") {
        return all_of(Shape::Scored);
    }
    if has("completion") || has("label") {
        return all_of(if has("label") { Shape::Labelled } else { Shape::Completion });
    }
    if has("messages") {
        return Ok(Shape::Messages);
    }
    if has("prompt") {
        return Ok(Shape::Prompt);
    }
    if has("text") {
        return Ok(Shape::Text);
    }
    Err(BadRow::UnknownShape { found: columns.some_names() })
}

fn take_text(columns: &mut Columns<'_>, name: &str) -> Result<Text, BadRow> {
    let value = columns.take(name).unwrap_or_default();
    text(&columns.column(name), value)
}

fn take_scored(columns: &mut Columns<'_>) -> Result<(Vec<Text>, Vec<f64>), BadRow> {
    let (completions_column, rewards_column) = (columns.column("completions"), columns.column("rewards"));
    let completions = list(&completions_column, columns.take("completions").unwrap_or_default())?;
    let rewards = list(&rewards_column, columns.take("rewards").unwrap_or_default())?;
    if completions.len() != rewards.len() {
        return Err(BadRow::RewardCount { completions: completions.len(), rewards: rewards.len() });
    }
    let number = |(i, value): (usize, Value)| match value.as_f64().filter(|x| x.is_finite()) {
        Some(reward) => Ok(reward),
        None => Err(wrong_type(format!("{rewards_column}[{i}]"), &value, "a finite number")),
    };
    let answer = |(i, value)| text(&format!("{completions_column}[{i}]"), value);
    let answers: Result<Vec<Text>, BadRow> = completions.into_iter().enumerate().map(answer).collect();
    let rewards: Result<Vec<f64>, BadRow> = rewards.into_iter().enumerate().map(number).collect();
    let answers = answers?;
    if let Some(other) = answers.iter().position(|answer| answer.form() != answers[0].form()) {
        return Err(BadRow::MixedForms {
            other: format!("{completions_column}[0]"),
            prompt: answers[0].form().describe(),
            field: format!("{completions_column}[{other}]"),
            found: answers[other].form().describe(),
        });
    }
    Ok((answers, rewards?))
}

/// What `chat_template_kwargs` may not set: what the rows, the command line or the library decide.
const NO_KWARGS: [&str; 13] = [
    "messages",
    "conversation",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
    "padding",
    "max_length",
    "return_tensors",
    "return_dict",
];

/// `tools` (a list, or JSON text of one) and `chat_template_kwargs` (an object), as TRL 1.16 hands them to the template. A null
/// is as good as no column.
fn take_inputs(columns: &mut Columns<'_>) -> Result<TemplateInputs, BadRow> {
    let field = columns.column("tools");
    let tools = match columns.take("tools").unwrap_or_default() {
        Value::String(json) => {
            let parsed: Result<Value, _> = serde_json::from_str(&json);
            parsed.map_err(|e| BadRow::ToolsJson { field: field.clone(), message: words_of(&e) })?
        }
        other => other,
    };
    let mut tools = match tools {
        Value::Null => None,
        Value::Array(tools) => Some(tools),
        other => return Err(wrong_type(field, &other, "a list of tools, or JSON text of one")),
    };
    for (i, tool) in tools.iter_mut().flatten().enumerate() {
        if !tool.is_object() {
            return Err(wrong_type(format!("{field}[{i}]"), tool, "an object, the tool's JSON schema"));
        }
        drop_null_properties(tool);
    }
    let field = columns.column("chat_template_kwargs");
    let kwargs = match columns.take("chat_template_kwargs").unwrap_or_default() {
        Value::Null => Map::new(),
        Value::Object(kwargs) => kwargs,
        other => return Err(wrong_type(field, &other, "an object")),
    };
    if let Some(name) = NO_KWARGS.into_iter().find(|name| kwargs.contains_key(*name)) {
        return Err(BadRow::TemplateKwarg { field, name });
    }
    Ok(TemplateInputs { tools, kwargs })
}
