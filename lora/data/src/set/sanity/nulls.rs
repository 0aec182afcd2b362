//! Finds null arguments in tool calls. If a table has one type for all rows and the rows call different tools, the table adds
//! such nulls.

use serde_json::{Map, Value};

use super::{Finding, Sighting, answer_name, prompt_name};
use crate::record::records::Record;
use crate::record::turn::function;

/// Looks for a call with a null argument that its tool does not declare.
pub(super) fn look(record: &Record, found: &mut Vec<Sighting>) {
    let tools = record.inputs.tools.as_deref().unwrap_or_default();
    let answers = record.answers.iter().enumerate().map(|(i, answer)| (Some(i), answer));
    for (answer, text) in answers.chain([(None, &record.prompt)]) {
        for (i, turn) in text.turns().iter().enumerate() {
            let calls = turn.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for (j, call) in calls.iter().enumerate() {
                let Some((name, argument)) = undeclared(call, tools) else { continue };
                let column = answer.map_or_else(|| prompt_name(record), |i| answer_name(record, i));
                let at = format!("{column}[{i}].tool_calls[{j}]");
                found.push(Sighting::new(Finding::NullArgument, at, &format!("{name}: {argument}")));
                return;
            }
        }
    }
}

/// Returns the name of the called tool and the place of the call's first null argument that no tool of this name declares as a
/// property.
fn undeclared<'a>(call: &'a Value, tools: &[Value]) -> Option<(&'a str, String)> {
    let call = function(call);
    let name = call.get("name").and_then(Value::as_str)?;
    let named = tools.iter().map(function).filter(|tool| tool.get("name").and_then(Value::as_str) == Some(name));
    let arguments = call.get("arguments")?.as_object()?;
    let nulls: Vec<Option<String>> = match named.map(|tool| tool.get("parameters")).collect::<Vec<_>>() {
        schemas if schemas.is_empty() => vec![null_of_object(arguments, None, true)],
        schemas => schemas.into_iter().map(|schema| null_of_object(arguments, schema, true)).collect(),
    };
    // if several tools have this name, it is enough that one of them declares all null arguments
    let first = nulls.iter().find(|null| null.is_some())?.clone()?;
    nulls.iter().all(Option::is_some).then_some((name, first))
}

/// Returns the place of the first null that an object has and its schema does not declare. If a schema lists no properties, any
/// field may be null. The arguments themselves are the exception: there an unlisted null is undeclared.
fn null_of_object(fields: &Map<String, Value>, schema: Option<&Value>, are_arguments: bool) -> Option<String> {
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let property = |name: &str| properties.and_then(|all| all.get(name)).filter(|property| !property.is_null());
    let is_closed = are_arguments || properties.is_some();
    fields.iter().find_map(|(name, value)| match (value, property(name)) {
        (Value::Null, None) if is_closed => Some(name.clone()),
        (value, property) => null_within(value, property).map(|within| format!("{name}{within}")),
    })
}

/// Returns the place of the first undeclared null within a value, as it follows the value's name: `.field` or `[0]`.
fn null_within(value: &Value, schema: Option<&Value>) -> Option<String> {
    match value {
        Value::Object(fields) => null_of_object(fields, schema, false).map(|name| format!(".{name}")),
        Value::Array(items) => {
            let of_items = schema.and_then(|schema| schema.get("items"));
            let null = |(i, item): (usize, &Value)| null_within(item, of_items).map(|within| format!("[{i}]{within}"));
            items.iter().enumerate().find_map(null)
        }
        _ => None,
    }
}
