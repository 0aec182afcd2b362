//! Finds texts that are other values written as text, and texts to which a model's chat template is not applied.

use serde_json::Value;

use super::{Finding, Notation, Sighting, named_texts, prompt_name};
use crate::record::reading::Texts;
use crate::record::records::Record;
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::record::turn::content_of;
use crate::record::turn_marker::{holds_turns, is_marked};
use crate::record::turns::turns_in_text;
use crate::tokens::encode::Encoder;

/// Looks at the texts of a record, or at the contents of its turns.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let Text::Plain(_) = &record.prompt else { return look_at_contents(encoder, record, found) };
    let texts: Vec<(String, &String)> = named_texts(record)
        .filter_map(|(name, text)| if let Text::Plain(text) = text { Some((name, text)) } else { None })
        .collect();
    for (number, (column, text)) in texts.iter().enumerate() {
        // an answer may be meant to be JSON
        let is_meant = |value: &Serialised| number > 0 && value.is_plain_object;
        if let Some(Serialised { notation, turns, .. }) = serialised(text).filter(|value| !is_meant(value)) {
            let finding = Finding::Serialised { column: column.clone(), notation, turns };
            found.push(Sighting::new(finding, column.clone(), text));
        }
    }
    let has_template = encoder.template().is_some() && record.shape != Shape::Text;
    if has_template && !texts.iter().any(|(_, text)| holds_turns(text)) {
        found.push(Sighting::new(Finding::NoTemplateApplied, String::new(), ""));
    }
}

/// Looks for contents of turns that are lists of parts, or turns, written as text. Also looks for turn markers in a text that
/// became the user's turn.
fn look_at_contents(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let said = record.prompt.turns().last().and_then(content_of).unwrap_or_default();
    if encoder.reading().texts == Texts::AsTurns && is_marked(said) {
        found.push(Sighting::new(Finding::MarksInTurn, prompt_name(record), said));
    }
    for (name, text) in named_texts(record) {
        let mut contents = text.turns().iter().filter_map(content_of);
        if let Some(content) = contents.find(|content| is_written_as_text(content)) {
            let finding = Finding::Serialised { column: name.clone(), notation: Notation::Json, turns: false };
            found.push(Sighting::new(finding, name, content));
        }
    }
}

/// Whether the content of a turn is a list of parts or of turns, written as text.
fn is_written_as_text(content: &str) -> bool {
    holds_parts(content) || holds_keys_of_turns(content) && serialised(content).is_some()
}

/// Whether a text is a JSON list of parts: objects with a `type` and a `text`.
fn holds_parts(text: &str) -> bool {
    let text = text.trim();
    let is_list = text.starts_with("[{") && text.ends_with("}]") && text.contains("\"type\"");
    is_list && matches!(serde_json::from_str(text), Ok(Value::Array(parts)) if parts.iter().all(is_part))
}

fn is_part(part: &Value) -> bool {
    let has = |name: &str| part.get(name).is_some_and(Value::is_string);
    has("type") && has("text")
}

/// A value that was written as text.
struct Serialised {
    notation: Notation,
    /// Whether the value is turns that can be read.
    turns: bool,
    /// Whether it is one JSON object without the keys of turns.
    is_plain_object: bool,
}

impl Serialised {
    fn new(notation: Notation) -> Serialised {
        Serialised { notation, turns: false, is_plain_object: false }
    }
}

/// Recognises a value in JSON or in Python's notation: a list with a text or an object in it, an object that is not empty, a quoted
/// text, turns between code fences, or a printed message. Lists and objects of turns may be cut off. `None` if the text is none of
/// these.
fn serialised(text: &str) -> Option<Serialised> {
    let text = text.trim();
    if text.len() > 1 && text.starts_with('"') && text.ends_with('"') {
        let inner: String = serde_json::from_str(text).ok()?;
        // JSON inside JSON
        let twice = if inner.starts_with('"') { None } else { serialised(&inner) };
        return Some(twice.unwrap_or(Serialised::new(Notation::Json)));
    }
    if let Some(fenced) = text.strip_prefix("```").and_then(|text| text.strip_suffix("```")) {
        let inner = fenced.trim_start_matches(char::is_alphabetic);
        return turns_in_text(inner.trim()).map(|_| Serialised::new(Notation::Json));
    }
    if !text.starts_with(['[', '{']) {
        return is_message(text).then(|| Serialised::new(Notation::Python));
    }
    let json = serde_json::from_str::<Value>(text);
    if turns_in_text(text).is_some() {
        let notation = if json.is_ok() { Notation::Json } else { Notation::Python };
        return Some(Serialised { turns: true, ..Serialised::new(notation) });
    }
    let has_keys_of_turns = holds_keys_of_turns(text);
    match json {
        Ok(Value::Object(fields)) => {
            let is_plain_object = !has_keys_of_turns;
            (!fields.is_empty()).then(|| Serialised { is_plain_object, ..Serialised::new(Notation::Json) })
        }
        // a list of numbers may be the answer to a calculation
        Ok(list) => holds_texts(&list).then(|| Serialised::new(Notation::Json)),
        Err(_) if text.ends_with(['}', ']']) => {
            (is_printed_by_python(text) || is_message(&text[1..])).then(|| Serialised::new(Notation::Python))
        }
        Err(_) => {
            let begins = ["[{\"", "{\"", "[{'", "{'"].iter().any(|start| text.starts_with(start));
            let notation = if text.contains("{\"") { Notation::Json } else { Notation::Python };
            (begins && has_keys_of_turns).then(|| Serialised::new(notation)) // cut off
        }
    }
}

fn holds_keys_of_turns(text: &str) -> bool {
    has_keys(text, ["role", "content"]) || has_keys(text, ["from", "value"])
}

fn has_keys(text: &str, keys: [&str; 2]) -> bool {
    let quoted = |quote: char| keys.iter().all(|key| text.contains(&format!("{quote}{key}{quote}")));
    quoted('"') || quoted('\'')
}

fn holds_texts(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(holds_texts),
        value => value.is_string() || value.is_object(),
    }
}

/// Whether the text, which is not JSON, is a list of strings, a dictionary or a list of dictionaries, as Python prints them.
fn is_printed_by_python(text: &str) -> bool {
    let inner = text[1..].trim_start();
    let quoted = inner.starts_with(['\'', '"']) || inner.starts_with("{'") || inner.starts_with("{\"");
    let keyed = text.contains("': ") || text.contains("\": ");
    let list = text.starts_with('[')
        && inner.starts_with(['\'', '"'])
        && inner.trim_end_matches(']').trim_end().ends_with(['\'', '"']);
    quoted && keyed || list
}

/// Whether a text is a turn in the form in which Python prints an object: `Message(role='assistant', content='a')`.
fn is_message(text: &str) -> bool {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let fields = text.split_once('(').filter(|(name, _)| is_name(name)).map_or("", |(_, fields)| fields);
    fields.contains("role=") && fields.contains("content=") && fields.trim_end_matches([']', ',']).ends_with(')')
}
