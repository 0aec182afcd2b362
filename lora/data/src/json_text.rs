//! Serialises a JSON value as a string, for formats that must know the type in advance. Also writes the keys of objects.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Returns a key as JSON writes it before its value in an object: `"name":`.
pub(crate) fn key(name: &str) -> Vec<u8> {
    let mut key = serde_json::to_vec(name).expect("a text prints");
    key.push(b':');
    key
}

pub(crate) fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(Value::to_string).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(serde::de::Error::custom)
}
