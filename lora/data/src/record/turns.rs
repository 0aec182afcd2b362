//! Reads a text or a conversation of a row in any of its notations. A text becomes a string; a conversation becomes turns of
//! `{role, content}`.
//!
//! | in the row | becomes |
//! |---|---|
//! | `{"from": "human", "value": ...}` (ShareGPT) | `{"role": "user", "content": ...}` |
//! | `"content": [{"type": "text", "text": "a"}, ...]` | `"content": "a..."`, the texts one after another |
//! | `"role": "human"`, `"gpt"`, `"User"` and the like | the name that templates know: `"user"`, `"assistant"` |
//! | a list of turns, or one, as JSON text or as Python prints it | the turns |
//! | a field that is null | no field, as in transformers 5.23 `apply_chat_template` |

use serde_json::{Map, Value};

use super::bad_row::BadRow;
use super::columns::wrong_type;
use super::python_literal;
use super::text::Text;
use super::turn::{OF_TEMPLATES, TEMPLATE_ROLES, speaker};
use crate::source::strict_json;

/// Reads a string that holds a list of turns or one turn, as JSON or as Python prints it. `None` for any other string.
pub(crate) fn turns_in_text(text: &str) -> Option<Value> {
    let trimmed = text.trim_start();
    if !(trimmed.starts_with(['[', '{', '(']) || trimmed.starts_with("array(")) {
        return None;
    }
    let value = value_in_text(text)?;
    let is_turns = match &value {
        Value::Array(turns) => !turns.is_empty() && turns.iter().all(looks_like_turn),
        turn => looks_like_turn(turn),
    };
    is_turns.then_some(value)
}

/// Reads a string that holds a value, as JSON or as Python prints it. `None` for any other string.
pub(crate) fn value_in_text(text: &str) -> Option<Value> {
    strict_json::parse(text).ok().or_else(|| python_literal::parse(text))
}

/// Whether a value has a known role, and a content or tool calls.
fn looks_like_turn(value: &Value) -> bool {
    let of = |name: &str| value.get(name).and_then(Value::as_str);
    let is_role = |role: &str| speaker(role).is_some() || TEMPLATE_ROLES.contains(&role.trim());
    match (of("role"), of("from")) {
        (Some(role), _) => is_role(role) && (value.get("content").is_some() || value.get("tool_calls").is_some()),
        (None, Some(from)) => speaker(from).is_some() && value.get("value").is_some(),
        (None, None) => false,
    }
}

/// Reads a string, a non-empty list of turns, or a turn alone.
pub(crate) fn text(field: &str, value: Value) -> Result<Text, BadRow> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(_) | Value::Object(_) => turns(field, value).map(Text::Turns),
        other => Err(wrong_type(field.to_owned(), &other, "a string or a list of {role, content}")),
    }
}

/// Reads a non-empty list of turns, a turn alone, or a string that holds one of these.
pub(crate) fn turns(field: &str, value: Value) -> Result<Vec<Value>, BadRow> {
    match value {
        turn @ Value::Object(_) => Ok(vec![one(field, turn)?]),
        Value::String(text) => match turns_in_text(&text) {
            Some(value) => turns(field, value),
            None => Err(wrong_type(field.to_owned(), &Value::String(text), "a list of turns, or JSON text of one")),
        },
        value => {
            let turns = list(field, value)?;
            turns.into_iter().enumerate().map(|(i, turn)| one(&format!("{field}[{i}]"), turn)).collect()
        }
    }
}

/// Reads a non-empty list, or a string that holds one.
pub(crate) fn list(field: &str, value: Value) -> Result<Vec<Value>, BadRow> {
    let in_text = value.as_str().and_then(value_in_text).filter(Value::is_array);
    match in_text.unwrap_or(value) {
        Value::Array(items) if items.is_empty() => Err(BadRow::EmptyList { field: field.to_owned() }),
        Value::Array(items) => Ok(items),
        other => Err(wrong_type(field.to_owned(), &other, "a list, or JSON text of one")),
    }
}

/// Reads a turn: a role and a content. The content is a string, or a list of parts that are text. A turn that calls tools need
/// not have a content.
fn one(field: &str, turn: Value) -> Result<Value, BadRow> {
    let Value::Object(mut fields) = turn else {
        return Err(wrong_type(field.to_owned(), &turn, "an object with `role` and `content`"));
    };
    let has = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if !has(&fields, "role") && has(&fields, "from") {
        fields = from_sharegpt(field, fields)?;
    }
    match fields.get_mut("role") {
        Some(Value::String(role)) => {
            let of_templates = OF_TEMPLATES.iter().chain(&TEMPLATE_ROLES).copied().find(|known| *known == role.trim());
            if let Some(known) = of_templates.or_else(|| speaker(role)).filter(|known| *known != role.as_str()) {
                known.clone_into(role);
            }
        }
        None | Some(Value::Null) => return Err(BadRow::IncompleteTurn { field: format!("{field}.role") }),
        Some(other) => return Err(wrong_type(format!("{field}.role"), other, "a string")),
    }
    let calls_tools = fields.get("tool_calls").is_some_and(Value::is_array);
    match fields.get_mut("content") {
        Some(Value::String(_)) => {}
        Some(content @ Value::Array(_)) => *content = joined(&format!("{field}.content"), content.take())?.into(),
        None | Some(Value::Null) if calls_tools => {}
        None | Some(Value::Null) => return Err(BadRow::IncompleteTurn { field: format!("{field}.content") }),
        Some(other) => return Err(wrong_type(format!("{field}.content"), other, "a string or a list of parts")),
    }
    if fields.values().any(Value::is_null) {
        fields = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    }
    Ok(Value::Object(fields))
}

/// Renames `from` and `value` to `role` and `content`, and keeps the order of the fields.
fn from_sharegpt(field: &str, fields: Map<String, Value>) -> Result<Map<String, Value>, BadRow> {
    let mut renamed = Map::with_capacity(fields.len());
    for (name, value) in fields {
        match name.as_str() {
            "from" => {
                let Value::String(from) = &value else {
                    return Err(wrong_type(format!("{field}.from"), &value, "a string"));
                };
                let role = speaker(from)
                    .ok_or_else(|| BadRow::UnknownRole { field: format!("{field}.from"), role: from.clone() })?;
                renamed.insert("role".to_owned(), role.into());
            }
            "value" => drop(renamed.insert("content".to_owned(), value)),
            // the role is null: otherwise `from` would not be read
            "role" => {}
            _ => drop(renamed.insert(name, value)),
        }
    }
    Ok(renamed)
}

/// Reads content that is a list of parts, and joins their texts.
pub(crate) fn joined(field: &str, parts: Value) -> Result<String, BadRow> {
    let mut all = String::new();
    for (i, part) in list(field, parts)?.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        let not_a_string = |name: &str| {
            let found = part.get(name).unwrap_or(&Value::Null);
            Err(wrong_type(format!("{field}.{name}"), found, "a string"))
        };
        match &part {
            Value::String(text) => all += text,
            Value::Object(fields) => match (fields.get("type"), fields.get("text")) {
                (Some(Value::String(kind)), _) if kind != "text" => {
                    return Err(BadRow::NotText { field, part: kind.clone() });
                }
                // older files omit the type of a text
                (Some(Value::String(_)) | None, Some(Value::String(text))) => all += text,
                (Some(Value::String(_)), _) | (None, Some(_)) => return not_a_string("text"),
                _ => return not_a_string("type"),
            },
            other => return Err(wrong_type(field, other, "an object with `type` and `text`")),
        }
    }
    Ok(all)
}
