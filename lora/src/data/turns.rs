//! The forms in which a text or a conversation stands in a row, brought to one: a string, or turns of `{role, content}`.
//!
//! | in the row | becomes |
//! |---|---|
//! | `{"from": "human", "value": ...}` (ShareGPT) | `{"role": "user", "content": ...}` |
//! | `"content": [{"type": "text", "text": "a"}, ...]` | `"content": "a..."`, the texts one after another |
//! | a field that is null | no field, as transformers 5.23 `apply_chat_template` has it |

use serde_json::{Map, Value};

use super::BadRow;
use super::columns::wrong_type;
use super::records::Text;

/// ShareGPT's names of the roles, and the names that templates know.
const SHAREGPT_ROLES: [(&str, &str); 10] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function", "tool"),
];

/// The role of the turns that a model writes.
pub(super) const ASSISTANT: &str = "assistant";

/// Whether the model is the one who speaks.
pub(super) fn is_assistant(turn: &Value) -> bool {
    turn.get("role").and_then(Value::as_str) == Some(ASSISTANT)
}

/// A string, a non-empty list of turns, or a turn alone.
pub(super) fn text(field: &str, value: Value) -> Result<Text, BadRow> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(_) | Value::Object(_) => turns(field, value).map(Text::Turns),
        Value::Null => Err(BadRow::Null { field: field.to_owned() }),
        other => Err(wrong_type(field.to_owned(), &other, "a string or a list of {role, content}")),
    }
}

/// A non-empty list of turns, or a turn alone.
pub(super) fn turns(field: &str, value: Value) -> Result<Vec<Value>, BadRow> {
    match value {
        turn @ Value::Object(_) => Ok(vec![one(field, turn)?]),
        value => {
            let turns = list(field, value)?;
            turns.into_iter().enumerate().map(|(i, turn)| one(&format!("{field}[{i}]"), turn)).collect()
        }
    }
}

/// A non-empty list.
pub(super) fn list(field: &str, value: Value) -> Result<Vec<Value>, BadRow> {
    match value {
        Value::Array(items) if items.is_empty() => Err(BadRow::EmptyList { field: field.to_owned() }),
        Value::Array(items) => Ok(items),
        Value::Null => Err(BadRow::Null { field: field.to_owned() }),
        other => Err(wrong_type(field.to_owned(), &other, "a list")),
    }
}

/// A turn has a role and a content: a string, or a list of parts that are text, or, where it calls tools, nothing.
fn one(field: &str, turn: Value) -> Result<Value, BadRow> {
    let Value::Object(mut fields) = turn else {
        return Err(wrong_type(field.to_owned(), &turn, "an object with `role` and `content`"));
    };
    let has = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if !has(&fields, "role") && has(&fields, "from") {
        fields = from_sharegpt(field, fields)?;
    }
    match fields.get("role") {
        Some(Value::String(_)) => {}
        other => return Err(wrong_type(format!("{field}.role"), other.unwrap_or(&Value::Null), "a string")),
    }
    let calls_tools = fields.get("tool_calls").is_some_and(Value::is_array);
    match fields.get_mut("content") {
        Some(Value::String(_)) => {}
        Some(content @ Value::Array(_)) => *content = flattened(&format!("{field}.content"), content.take())?,
        None | Some(Value::Null) if calls_tools => {}
        None | Some(Value::Null) => return Err(BadRow::Null { field: format!("{field}.content") }),
        Some(other) => return Err(wrong_type(format!("{field}.content"), other, "a string or a list of parts")),
    }
    if fields.values().any(Value::is_null) {
        fields = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    }
    Ok(Value::Object(fields))
}

/// `from` and `value` under the names that templates read, in their place.
fn from_sharegpt(field: &str, fields: Map<String, Value>) -> Result<Map<String, Value>, BadRow> {
    let mut renamed = Map::with_capacity(fields.len());
    for (name, value) in fields {
        match name.as_str() {
            "from" => {
                let Value::String(from) = &value else {
                    return Err(wrong_type(format!("{field}.from"), &value, "a string"));
                };
                let role = SHAREGPT_ROLES.into_iter().find(|(theirs, _)| theirs == from);
                let (_, role) =
                    role.ok_or_else(|| BadRow::UnknownRole { field: format!("{field}.from"), role: from.clone() })?;
                renamed.insert("role".to_owned(), role.into());
            }
            "value" => drop(renamed.insert("content".to_owned(), value)),
            // null, or it would be the role already
            "role" => {}
            _ => drop(renamed.insert(name, value)),
        }
    }
    Ok(renamed)
}

/// Content given as a list of parts: the texts one after another.
fn flattened(field: &str, parts: Value) -> Result<Value, BadRow> {
    let mut all = String::new();
    for (i, part) in list(field, parts)?.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        match &part {
            Value::String(text) => all += text,
            Value::Object(fields) => {
                // older files leave the type of a text out
                match fields.get("type") {
                    Some(Value::String(kind)) if kind == "text" => {}
                    Some(Value::String(kind)) => return Err(BadRow::NotText { field, part: kind.clone() }),
                    None if fields.contains_key("text") => {}
                    other => {
                        return Err(wrong_type(format!("{field}.type"), other.unwrap_or(&Value::Null), "a string"));
                    }
                }
                match fields.get("text") {
                    Some(Value::String(text)) => all += text,
                    other => {
                        return Err(wrong_type(format!("{field}.text"), other.unwrap_or(&Value::Null), "a string"));
                    }
                }
            }
            other => return Err(wrong_type(field, other, "an object with `type` and `text`")),
        }
    }
    Ok(Value::String(all))
}

/// The roles that ShareGPT's `from` may name, for messages.
pub(super) fn known_roles() -> String {
    SHAREGPT_ROLES.map(|(theirs, _)| theirs).join(", ")
}
