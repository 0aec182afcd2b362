//! Finds null arguments in tool calls. A table with one type for all rows adds them if the rows call different tools.

use serde_json::Value;

use super::super::records::{Record, Text};
use super::{Finding, Sighting, answer_name, prompt_name};

/// Looks for a call with a null argument that its tool does not declare.
pub(super) fn look(record: &Record, found: &mut Vec<Sighting>) {
    let tools = record.inputs.tools.as_deref().unwrap_or_default();
    let answers = record.answers.iter().enumerate().map(|(i, answer)| (Some(i), answer));
    for (answer, text) in answers.chain([(None, &record.prompt)]) {
        let Text::Turns(turns) = text else { continue };
        for (i, turn) in turns.iter().enumerate() {
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

/// Returns the name of a call and its first null argument that no tool of that name has as a property.
fn undeclared<'a>(call: &'a Value, tools: &[Value]) -> Option<(&'a str, &'a str)> {
    let call = call.get("function").unwrap_or(call);
    let name = call.get("name").and_then(Value::as_str)?;
    let declares = |argument: &str| {
        let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
        let mut named = functions.filter(|tool| tool.get("name").and_then(Value::as_str) == Some(name));
        let property = |tool: &Value| {
            let property = tool.get("parameters")?.get("properties")?.get(argument)?;
            Some(!property.is_null())
        };
        named.any(|tool| property(tool) == Some(true))
    };
    let arguments = call.get("arguments")?.as_object()?;
    let null = arguments.iter().find(|(argument, value)| value.is_null() && !declares(argument))?;
    Some((name, null.0))
}
