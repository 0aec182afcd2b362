//! Texts that are something else written as text, and texts that meet a model with a chat template.

use serde_json::Value;

use super::super::encode::Encoder;
use super::super::records::{Record, Shape, Text};
use super::super::turn_marker::holds_turns;
use super::{Finding, Notation, Sighting, answer_name, prompt_name};

/// Looks at a record of texts.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let Text::Plain(prompt) = &record.prompt else { return look_at_contents(encoder, record, found) };
    let mut texts = vec![(prompt_name(encoder, record), prompt)];
    for (number, answer) in record.answers.iter().enumerate() {
        if let Text::Plain(answer) = answer {
            texts.push((answer_name(record, number), answer));
        }
    }
    for (number, (column, text)) in texts.iter().enumerate() {
        // an answer may be meant to be JSON
        let is_meant = |(notation, turns): &(Notation, bool)| number > 0 && *notation == Notation::Json && !turns;
        if let Some((notation, turns)) = serialised(text).filter(|found| !is_meant(found)) {
            let finding = Finding::Serialised { column: column.clone(), notation, turns };
            found.push(Sighting::new(finding, column.clone(), text));
        }
    }
    let has_template = encoder.template().is_some() && record.shape != Shape::Text;
    if has_template && !texts.iter().any(|(_, text)| holds_turns(text)) {
        found.push(Sighting::new(Finding::NoTemplateApplied, String::new(), ""));
    }
}

/// Looks for contents of turns that are lists of parts, or turns, written as text.
fn look_at_contents(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let answers = record.answers.iter().enumerate().map(|(number, text)| (answer_name(record, number), text));
    for (name, text) in [(prompt_name(encoder, record), &record.prompt)].into_iter().chain(answers) {
        let Text::Turns(turns) = text else { continue };
        let is_value = |turn: &&Value| turn.get("content").and_then(Value::as_str).is_some_and(holds_parts);
        if let Some(turn) = turns.iter().find(is_value) {
            let content = turn.get("content").and_then(Value::as_str).unwrap_or_default();
            let finding = Finding::Serialised { column: name.clone(), notation: Notation::Json, turns: false };
            found.push(Sighting::new(finding, name, content));
        }
    }
}

/// Whether a text is a list of `{type, text}`, or of turns, as JSON.
fn holds_parts(text: &str) -> bool {
    let text = text.trim();
    let is_list = text.starts_with("[{") && text.ends_with("}]") && text.contains("\"type\"");
    is_list && matches!(serde_json::from_str(text), Ok(Value::Array(parts)) if parts.iter().all(is_part))
}

fn is_part(part: &Value) -> bool {
    let has = |name: &str| part.get(name).is_some_and(Value::is_string);
    has("type") && has("text")
}

/// The notation of a text that is a list or an object, and whether that has turns.
fn serialised(text: &str) -> Option<(Notation, bool)> {
    let text = text.trim();
    if text.starts_with("\"[") || text.starts_with("\"{") {
        // JSON of JSON
        let inner: String = serde_json::from_str(text).ok()?;
        return if inner.starts_with('"') { None } else { serialised(&inner) };
    }
    let is_closed = text.starts_with('{') && text.ends_with('}') || text.starts_with('[') && text.ends_with(']');
    let has = |word: &str| text.contains(&format!("\"{word}\"")) || text.contains(&format!("'{word}'"));
    let turns = has("role") && has("content") || has("from") && has("value");
    if !is_closed {
        let begins = ["[{\"", "{\"", "[{'", "{'"].iter().any(|start| text.starts_with(start));
        let notation = if text.contains("{\"") { Notation::Json } else { Notation::Python };
        return (begins && turns).then_some((notation, true)); // cut off
    }
    // a list of numbers is an answer to a sum
    let holds_texts = |value: &Value| value.is_string() || value.is_object();
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) if !fields.is_empty() => Some((Notation::Json, turns)),
        Ok(Value::Array(items)) if items.first().is_some_and(holds_texts) => Some((Notation::Json, turns)),
        Ok(_) => None,
        Err(_) => {
            let inner = text[1..].trim_start();
            let quoted = inner.starts_with(['\'', '"']) || inner.starts_with("{'") || inner.starts_with("{\"");
            let keyed = text.contains("': ") || text.contains("\": ");
            let list = text.starts_with('[')
                && inner.starts_with(['\'', '"'])
                && inner.trim_end_matches(']').trim_end().ends_with(['\'', '"']);
            (quoted && keyed || list).then_some((Notation::Python, turns))
        }
    }
}
