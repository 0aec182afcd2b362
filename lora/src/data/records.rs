//! A row of preference data as it stands in the file, before any template or token: strict parsing, shapes, implicit prompts.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::{Map, Number, Value};

use super::BadRow;

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// 0-based number of the record over all files in their order; blank lines are not records.
    pub row: usize,
    /// The row's `id`, echoed in outputs; `None` where it has none or null.
    pub id: Option<Value>,
    /// The columns that the row had.
    pub shape: Shape,
    /// What the answers answer.
    pub prompt: Text,
    /// Two answers for pairs (chosen, rejected), one for labelled rows, one or more for scored rows, none for a prompt alone.
    pub answers: Vec<Text>,
    /// What the data says about the answers.
    pub target: RecordTarget,
}

/// A text or the turns of a conversation. Prompt and answers of one row have the same form.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// A string, tokenised as it is.
    Plain(String),
    /// Turns: objects with `role` and `content` and whatever else the template reads, keys in the file's order.
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
    /// `{prompt}`
    Prompt,
}

impl Shape {
    /// The columns as a user writes them.
    pub fn columns(self) -> &'static str {
        match self {
            Shape::Pair => "{prompt, chosen, rejected}",
            Shape::PairImplicitPrompt => "{chosen, rejected}",
            Shape::Labelled => "{prompt, completion, label}",
            Shape::Scored => "{prompt, completions, rewards}",
            Shape::Prompt => "{prompt}",
        }
    }

    /// Names of the answers' columns, in the order of [`Record::answers`]; those of scored rows are `completions[i]`.
    pub fn answer_column(self, answer: usize) -> String {
        match (self, answer) {
            (Shape::Pair | Shape::PairImplicitPrompt, 0) => "chosen".to_owned(),
            (Shape::Pair | Shape::PairImplicitPrompt, _) => "rejected".to_owned(),
            (Shape::Scored, i) => format!("completions[{i}]"),
            (Shape::Labelled | Shape::Prompt, _) => "completion".to_owned(),
        }
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
        let paired = |shape| matches!(shape, Shape::Pair | Shape::PairImplicitPrompt);
        self.form == other.form && (self.shape == other.shape || paired(self.shape) && paired(other.shape))
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

/// A record and the names of the columns that nothing reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The record.
    pub record: Record,
    /// Its other columns, in the file's order.
    pub ignored_columns: Vec<String>,
}

impl Record {
    /// Parses the bytes of one line as record number `row`.
    ///
    /// # Errors
    /// [`BadRow`], naming the column.
    pub fn parse(row: usize, line: &[u8]) -> Result<Parsed, BadRow> {
        let text = std::str::from_utf8(line).map_err(|e| BadRow::Utf8 { at: e.valid_up_to() + 1 })?;
        let mut columns = Columns::parse(text)?;
        let shape = columns.shape()?;
        let ignored_columns = columns.ignored(shape);

        let id = match columns.take("id") {
            None | Some(Value::Null) => None,
            Some(id @ (Value::Array(_) | Value::Object(_))) => {
                return Err(wrong_type("id".to_owned(), &id, "a string, a number or a boolean"));
            }
            id => id,
        };
        let (prompt, answers, target) = match shape {
            Shape::Pair => {
                let prompt = columns.text("prompt")?;
                let (chosen, rejected) = (columns.text("chosen")?, columns.text("rejected")?);
                (prompt, vec![chosen, rejected], RecordTarget::Pair)
            }
            Shape::PairImplicitPrompt => {
                let (chosen, rejected) = (columns.text("chosen")?, columns.text("rejected")?);
                if chosen == rejected {
                    return Err(BadRow::SameAnswers);
                }
                let (prompt, chosen, rejected) = split_common_prefix(chosen, rejected)?;
                (prompt, vec![chosen, rejected], RecordTarget::Pair)
            }
            Shape::Labelled => {
                let (prompt, completion) = (columns.text("prompt")?, columns.text("completion")?);
                let label = match columns.take("label") {
                    Some(Value::Bool(label)) => label,
                    other => return Err(wrong_type("label".to_owned(), &other.unwrap_or_default(), "true or false")),
                };
                (prompt, vec![completion], RecordTarget::Label(label))
            }
            Shape::Scored => {
                let prompt = columns.text("prompt")?;
                let (answers, rewards) = columns.scored()?;
                (prompt, answers, RecordTarget::Rewards(rewards))
            }
            Shape::Prompt => (columns.text("prompt")?, Vec::new(), RecordTarget::Prompt),
        };
        if let Some(other) = answers.iter().position(|answer| answer.form() != prompt.form()) {
            return Err(BadRow::MixedForms {
                prompt: prompt.form().describe(),
                field: shape.answer_column(other),
                found: answers[other].form().describe(),
            });
        }
        if target == RecordTarget::Pair && answers[0] == answers[1] {
            return Err(BadRow::SameAnswers);
        }
        Ok(Parsed { record: Record { row, id, shape, prompt, answers, target }, ignored_columns })
    }

    /// Shape and form.
    pub fn kind(&self) -> Kind {
        Kind { shape: self.shape, form: self.prompt.form() }
    }

    /// A number for the prompt: the same for the same text or turns, another one for others but once in 2^32.
    pub fn prompt_group(&self) -> u32 {
        let hash = match &self.prompt {
            Text::Plain(text) => blake3::hash(text.as_bytes()),
            Text::Turns(turns) => blake3::hash(serde_json::to_string(turns).expect("JSON values print").as_bytes()),
        };
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A pair as two labelled rows, the chosen answer first; any other record as it is.
    pub fn unpaired(self) -> Vec<Record> {
        if self.target != RecordTarget::Pair {
            return vec![self];
        }
        let Record { row, id, shape, prompt, answers, .. } = self;
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
            })
            .collect()
    }
}

/// Splits a pair whose prompt is what the two have in common at the start.
///
/// Text: the longest common prefix in characters, without a space at its end, as TRL 1.16 `extract_prompt`; turns: the common
/// turns. Where one side is a prefix of the other, all of it is the prompt (TRL's loop ends one short there and moves the last
/// shared character or turn into the answers); an empty text is then a possible answer, no turn at all is not.
fn split_common_prefix(chosen: Text, rejected: Text) -> Result<(Text, Text, Text), BadRow> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let pairs = chosen.chars().zip(rejected.chars());
            let mut end: usize = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            if chosen[..end].ends_with(' ') {
                end -= 1;
            }
            let rest = |text: &str| Text::Plain(text[end..].to_owned());
            Ok((Text::Plain(chosen[..end].to_owned()), rest(&chosen), rest(&rejected)))
        }
        (Text::Turns(mut chosen), Text::Turns(mut rejected)) => {
            let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            if common == 0 {
                return Err(BadRow::NoCommonTurn);
            }
            let rest = chosen.split_off(common);
            let other = rejected.split_off(common);
            for (field, turns) in [("chosen", &rest), ("rejected", &other)] {
                if turns.is_empty() {
                    return Err(BadRow::NoOwnTurn { field });
                }
            }
            Ok((Text::Turns(chosen), Text::Turns(rest), Text::Turns(other)))
        }
        (chosen, rejected) => Err(BadRow::MixedForms {
            prompt: chosen.form().describe(),
            field: "rejected".to_owned(),
            found: rejected.form().describe(),
        }),
    }
}

/// Columns that some shape reads.
const KNOWN: [&str; 8] = ["prompt", "chosen", "rejected", "completion", "label", "completions", "rewards", "id"];

/// The columns of a row: values of those that some shape reads, names of the others.
struct Columns {
    known: Map<String, Value>,
    others: Vec<String>,
}

impl Columns {
    fn parse(text: &str) -> Result<Columns, BadRow> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let columns = parser.deserialize_any(ColumnsVisitor).and_then(|columns| parser.end().map(|()| columns));
        columns.map_err(|e| {
            // the parser sees one line: its "line 1" would be taken for the line of the file
            let message = e.to_string();
            let message = message.replace(&format!(" at line {} column {}", e.line(), e.column()), "");
            match message.strip_prefix(NOT_OBJECT) {
                Some(found) => BadRow::NotObject { found: kind_named(found) },
                None => BadRow::Json { message, column: e.column() },
            }
        })
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.known.get_mut(name).map(Value::take)
    }

    fn has(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    fn shape(&self) -> Result<Shape, BadRow> {
        let need = |missing: &'static str, shape: Shape| match self.has(missing) {
            true => Ok(()),
            false => Err(BadRow::Missing { missing, shape: shape.columns() }),
        };
        if self.has("chosen") || self.has("rejected") {
            let shape = if self.has("prompt") { Shape::Pair } else { Shape::PairImplicitPrompt };
            need("chosen", shape)?;
            need("rejected", shape)?;
            return Ok(shape);
        }
        if self.has("completions") || self.has("rewards") {
            for column in ["prompt", "completions", "rewards"] {
                need(column, Shape::Scored)?;
            }
            return Ok(Shape::Scored);
        }
        if self.has("completion") || self.has("label") {
            for column in ["prompt", "completion", "label"] {
                need(column, Shape::Labelled)?;
            }
            return Ok(Shape::Labelled);
        }
        if self.has("prompt") {
            return Ok(Shape::Prompt);
        }
        let mut found: Vec<String> = self.known.keys().chain(&self.others).take(12).cloned().collect();
        found.sort();
        Err(BadRow::UnknownShape { found: found.join(", ") })
    }

    fn ignored(&self, shape: Shape) -> Vec<String> {
        let used: &[&str] = match shape {
            Shape::Pair => &["prompt", "chosen", "rejected"],
            Shape::PairImplicitPrompt => &["chosen", "rejected"],
            Shape::Labelled => &["prompt", "completion", "label"],
            Shape::Scored => &["prompt", "completions", "rewards"],
            Shape::Prompt => &["prompt"],
        };
        let unused = self.known.keys().filter(|name| *name != "id" && !used.contains(&name.as_str()));
        unused.chain(&self.others).cloned().collect()
    }

    fn text(&mut self, name: &str) -> Result<Text, BadRow> {
        let value = self.take(name).unwrap_or_default();
        text(name, value)
    }

    fn scored(&mut self) -> Result<(Vec<Text>, Vec<f64>), BadRow> {
        let completions = list("completions", self.take("completions").unwrap_or_default())?;
        let rewards = list("rewards", self.take("rewards").unwrap_or_default())?;
        if completions.len() != rewards.len() {
            return Err(BadRow::RewardCount { completions: completions.len(), rewards: rewards.len() });
        }
        let number = |(i, value): (usize, Value)| match value.as_f64().filter(|x| x.is_finite()) {
            Some(reward) => Ok(reward),
            None => Err(wrong_type(format!("rewards[{i}]"), &value, "a finite number")),
        };
        let answers: Result<Vec<Text>, BadRow> =
            completions.into_iter().enumerate().map(|(i, value)| text(&format!("completions[{i}]"), value)).collect();
        let rewards: Result<Vec<f64>, BadRow> = rewards.into_iter().enumerate().map(number).collect();
        let answers = answers?;
        if let Some(other) = answers.iter().position(|answer| answer.form() != answers[0].form()) {
            return Err(BadRow::MixedForms {
                prompt: answers[0].form().describe(),
                field: format!("completions[{other}]"),
                found: answers[other].form().describe(),
            });
        }
        Ok((answers, rewards?))
    }
}

/// A non-empty list.
fn list(field: &str, value: Value) -> Result<Vec<Value>, BadRow> {
    match value {
        Value::Array(items) if items.is_empty() => Err(BadRow::EmptyList { field: field.to_owned() }),
        Value::Array(items) => Ok(items),
        Value::Null => Err(BadRow::Null { field: field.to_owned() }),
        other => Err(wrong_type(field.to_owned(), &other, "a list")),
    }
}

/// A string, or a non-empty list of turns.
fn text(field: &str, value: Value) -> Result<Text, BadRow> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(_) => {
            let turns = list(field, value)?;
            for (i, turn) in turns.iter().enumerate() {
                check_turn(&format!("{field}[{i}]"), turn)?;
            }
            Ok(Text::Turns(turns))
        }
        Value::Null => Err(BadRow::Null { field: field.to_owned() }),
        other => Err(wrong_type(field.to_owned(), &other, "a string or a list of {role, content}")),
    }
}

/// A turn has a role and a content: a string, or a list of parts, or, where it calls tools, nothing.
fn check_turn(field: &str, turn: &Value) -> Result<(), BadRow> {
    let Value::Object(fields) = turn else {
        return Err(wrong_type(field.to_owned(), turn, "an object with `role` and `content`"));
    };
    match fields.get("role") {
        Some(Value::String(_)) => {}
        other => return Err(wrong_type(format!("{field}.role"), other.unwrap_or(&Value::Null), "a string")),
    }
    match fields.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        None | Some(Value::Null) if fields.get("tool_calls").is_some_and(Value::is_array) => Ok(()),
        None | Some(Value::Null) => Err(BadRow::Null { field: format!("{field}.content") }),
        Some(other) => Err(wrong_type(format!("{field}.content"), other, "a string or a list of parts")),
    }
}

fn wrong_type(field: String, found: &Value, expected: &'static str) -> BadRow {
    match found {
        Value::Null => BadRow::Null { field },
        found => BadRow::Type { field, found: kind(found), expected },
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Starts the parser's message for a row that is not an object; the kind follows.
const NOT_OBJECT: &str = "not an object: ";

fn kind_named(found: &str) -> &'static str {
    ["null", "a boolean", "a number", "a string", "a list"]
        .into_iter()
        .find(|kind| *kind == found)
        .unwrap_or("something else")
}

/// Reads the top level of a row: every key once, values of unknown columns checked as JSON and not kept.
struct ColumnsVisitor;

impl<'de> Visitor<'de> for ColumnsVisitor {
    type Value = Columns;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
        let mut columns = Columns { known: Map::new(), others: Vec::new() };
        let mut others = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if KNOWN.contains(&key.as_str()) {
                if columns.known.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("the key `{key}` stands twice")));
                }
                columns.known.insert(key, map.next_value_seed(Strict)?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if !others.insert(key.clone()) {
                    return Err(A::Error::custom(format_args!("the key `{key}` stands twice")));
                }
                columns.others.push(key);
            }
        }
        Ok(columns)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}null")))
    }
    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}a boolean")))
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}a number")))
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}a number")))
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}a number")))
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Columns, E> {
        Err(E::custom(format_args!("{NOT_OBJECT}a string")))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Columns, A::Error> {
        Err(A::Error::custom(format_args!("{NOT_OBJECT}a list")))
    }
}

/// Builds a [`Value`], refusing keys that stand twice in an object. The parser limits the depth to 128.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` stands twice")));
            }
            fields.insert(key, map.next_value_seed(Strict)?);
        }
        Ok(Value::Object(fields))
    }
}
