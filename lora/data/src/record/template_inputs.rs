//! What a row gives to the chat template beside its turns.

use serde_json::{Map, Value};

use super::bad_row::BadRow;
use super::columns::{Columns, wrong_type};
use super::tool_schemas::drop_null_properties;
use super::turns::value_in_text;
use crate::source::strict_json::json_fault;

/// What a row gives to the chat template beside its turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateInputs {
    /// JSON schemas of the tools that the conversation may call. The template sees `None` as None, as in transformers.
    pub tools: Option<Vec<Value>>,
    /// Further variables, such as `enable_thinking`. They replace special tokens of the same name.
    pub kwargs: Map<String, Value>,
}

/// Names that `chat_template_kwargs` may not set, since the rows, the command line or the library decide them.
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

/// Reads `tools` (a list) and `chat_template_kwargs` (an object) for the chat template, as TRL 1.16 does. Each may also be a
/// string that holds the value as JSON or as Python prints it. A null counts as a missing column.
pub(crate) fn take_inputs(columns: &mut Columns<'_>) -> Result<TemplateInputs, BadRow> {
    let (field, mut value) = columns.take_named("tools");
    if let Value::String(text) = value {
        let fault = || BadRow::ToolsJson { field: field.clone(), message: json_fault(&text).unwrap_or_default() };
        value = if text.trim().is_empty() { Value::Null } else { value_in_text(&text).ok_or_else(fault)? };
    }
    let mut tools = match value {
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
    let (field, value) = columns.take_named("chat_template_kwargs");
    let kwargs = match value {
        Value::Null => Map::new(),
        Value::Object(kwargs) => kwargs,
        other => match other.as_str().and_then(value_in_text) {
            Some(Value::Object(kwargs)) => kwargs,
            _ => return Err(wrong_type(field, &other, "an object, or JSON text of one")),
        },
    };
    if let Some(name) = NO_KWARGS.into_iter().find(|name| kwargs.contains_key(*name)) {
        return Err(BadRow::TemplateKwarg { field, name });
    }
    Ok(TemplateInputs { tools, kwargs })
}
