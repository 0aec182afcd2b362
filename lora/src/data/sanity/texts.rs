//! Texts that are something else written as text, and texts that meet a model with a chat template.

use serde_json::Value;

use super::super::encode::Encoder;
use super::super::records::{Record, Shape, Text};
use super::super::turn_marker::holds_turns;
use super::{Finding, Found, Notation, answer_name, prompt_name};

/// Looks at a record of texts.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Found>) {
    let Text::Plain(prompt) = &record.prompt else { return };
    let mut texts = vec![(prompt_name(encoder, record), prompt)];
    for (number, answer) in record.answers.iter().enumerate() {
        if let Text::Plain(answer) = answer {
            texts.push((answer_name(record, number), answer));
        }
    }
    for (column, text) in &texts {
        if let Some((notation, turns)) = serialised(text) {
            let finding = Finding::Serialised { column: column.clone(), notation, turns };
            found.push(Found::new(finding, column.clone(), text));
        }
    }
    let has_template = encoder.template().is_some() && record.shape != Shape::Text;
    if has_template && !texts.iter().any(|(_, text)| holds_turns(text)) {
        found.push(Found::new(Finding::NoTemplateApplied, String::new(), ""));
    }
}

/// The notation of a text that is a list or an object, and whether that has turns.
fn serialised(text: &str) -> Option<(Notation, bool)> {
    let text = text.trim();
    let is_closed = text.starts_with('{') && text.ends_with('}') || text.starts_with('[') && text.ends_with(']');
    if !is_closed {
        return None;
    }
    let has = |word: &str| text.contains(&format!("\"{word}\"")) || text.contains(&format!("'{word}'"));
    let turns = has("role") && has("content") || has("from") && has("value");
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
