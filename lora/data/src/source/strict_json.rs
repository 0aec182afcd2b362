//! Reads JSON as strictly as the rows of a file are read: no key may occur twice in an object.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Returns the parser's message about `text`, with the unexpected character added and the line and column removed. The parser
/// sees one row only, so users would take "line 1" for line 1 of the file.
pub(crate) fn words_of(text: &str, error: &serde_json::Error) -> String {
    let words = error.to_string().replace(&format!(" at line {} column {}", error.line(), error.column()), "");
    let line = text.lines().nth(error.line().saturating_sub(1));
    match line.and_then(|line| line.get(error.column().saturating_sub(1)..)?.chars().next()) {
        Some(found) if words.starts_with("expected ") => format!("{words}, found `{found}`"),
        _ => words.replace("EOF while parsing", "it ends within"),
    }
}

/// Parses a text and refuses keys that occur twice in an object.
pub(crate) fn parse(text: &str) -> serde_json::Result<Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut parser)?;
    parser.end().map(|()| value)
}

/// Returns what is wrong with a text that should be a JSON value, by the rules of [`parse`]. `None` if nothing is wrong.
pub(crate) fn json_fault(text: &str) -> Option<String> {
    let error = parse(text).err()?;
    Some(format!("{} (column {})", words_of(text, &error), error.column()))
}

/// Builds a [`Value`] and refuses keys that occur twice in an object. The parser limits the depth to 128.
pub(crate) struct Strict;

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
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into()) // the parser refuses a number that is not finite
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
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
