//! Removes nulls that a table has added to the schemas of tools. A column of a table has one type for all rows, so every tool
//! gets the parameters of all other tools, as nulls. The reader of Parquet leaves such nulls out. If a library made JSONL from
//! a table, the nulls are still there, among nulls that are intended.
//!
//! A null under `properties` or another key of named schemas is not a schema and is removed. All other nulls stay:
//! `"default": null` is a value.

use serde_json::Value;

use super::turn::function_mut;

/// Keys of a JSON schema whose values are objects of named schemas.
const BY_NAME: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keys whose value is a schema, or a list of schemas.
const INNER: [&str; 13] = [
    "items",
    "prefixItems",
    "additionalProperties",
    "additionalItems",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "anyOf",
    "allOf",
    "oneOf",
];
/// Keys of a tool whose value is the schema of its arguments: OpenAI's, then Anthropic's and MCP's.
const PARAMETERS: [&str; 3] = ["parameters", "input_schema", "inputSchema"];

/// Removes the nulls among the named schemas in the parameters of a tool, at any depth.
pub(crate) fn drop_null_properties(tool: &mut Value) {
    let function = function_mut(tool);
    for name in PARAMETERS {
        function.get_mut(name).into_iter().for_each(clean);
    }
}

fn clean(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(clean),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Object(schemas) if BY_NAME.contains(&key.as_str()) => {
                        if schemas.values().any(Value::is_null) {
                            *schemas = std::mem::take(schemas).into_iter().filter(|(_, one)| !one.is_null()).collect();
                        }
                        schemas.values_mut().for_each(clean);
                    }
                    value if INNER.contains(&key.as_str()) => clean(value),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(properties: Value) -> Value {
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}})
    }

    #[test]
    fn only_a_null_that_stands_for_a_schema_goes() {
        let padded = json!({
            "city": {"type": "string", "default": null}, "a": null,
            // a parameter that is called `properties` does not hold named schemas
            "properties": {"type": "array", "default": null, "items": {"type": "object", "properties": {"x": null, "y": {}}}},
            "either": {"anyOf": [{"type": "null"}, {"properties": {"z": null}}], "enum": ["q", null]},
        });
        let mut found = tool(padded);
        drop_null_properties(&mut found);
        let expected = json!({
            "city": {"type": "string", "default": null},
            "properties": {"type": "array", "default": null, "items": {"type": "object", "properties": {"y": {}}}},
            "either": {"anyOf": [{"type": "null"}, {"properties": {}}], "enum": ["q", null]},
        });
        assert_eq!(found, tool(expected));
        let mut other =
            json!({"name": "g", "input_schema": {"properties": {"a": null}, "$defs": {"b": null}}, "x": null});
        drop_null_properties(&mut other);
        assert_eq!(other, json!({"name": "g", "input_schema": {"properties": {}, "$defs": {}}, "x": null}));
    }
}
