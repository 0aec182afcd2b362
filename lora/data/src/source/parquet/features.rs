//! Reads what the `datasets` library says about the columns. The key `huggingface` of a file's footer holds the features of its
//! rows as JSON. A feature of the type `Json` is stored as text, which not every writer annotates as JSON.
//!
//! Source: `datasets` 5.0, `features.Json` and `Features.arrow_schema`.

use ::parquet::file::metadata::FileMetaData;
use serde_json::Value;

use super::fault::Outcome;
use super::fault::ParquetFault;

/// Largest list of features to read, in bytes. Thousands of columns take less.
const MAX_BYTES: usize = 1 << 20;

/// What the features say about a field. `None` if they say nothing, as in a file that another library wrote.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Feature<'a>(Option<&'a Value>);

impl<'a> Feature<'a> {
    /// Returns the feature of a whole row.
    pub(super) fn of(features: Option<&'a Value>) -> Feature<'a> {
        Feature(features)
    }

    /// Returns the feature of a field of a structure.
    pub(super) fn field(self, name: &str) -> Feature<'a> {
        Feature(self.0.filter(|_| self.kind().is_none()).and_then(|fields| fields.get(name)))
    }

    /// Returns the feature of the elements of a list: `{"_type": "List", "feature": ...}`, or a one-element list in older versions.
    pub(super) fn element(self) -> Feature<'a> {
        Feature(match self.kind() {
            Some("List" | "LargeList" | "Sequence") => self.0.and_then(|list| list.get("feature")),
            _ => self.0.and_then(|list| list.get(0)),
        })
    }

    /// Whether the field's strings hold JSON.
    pub(super) fn is_json(self) -> bool {
        self.kind() == Some("Json")
    }

    /// Returns the `_type` of a feature. `None` for a structure. If a structure has a field of that name, the value is an object
    /// and not a string.
    fn kind(self) -> Option<&'a str> {
        self.0?.get("_type")?.as_str()
    }
}

/// Returns the features of the rows of a file. `None` if none of them is JSON.
///
/// # Errors
/// [`ParquetFault::Damaged`] if the list names the type `Json` but cannot be read.
pub(super) fn features(metadata: &FileMetaData) -> Outcome<Option<Value>> {
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let Some(text) = entries.filter(|entry| entry.key == "huggingface").find_map(|entry| entry.value.as_ref()) else {
        return Ok(None);
    };
    if !text.contains("\"Json\"") {
        return Ok(None);
    }
    let damaged = |message: String| ParquetFault::Damaged { part: "list of features (huggingface)", message };
    if text.len() > MAX_BYTES {
        return Err(damaged(format!("{} bytes, the limit is {MAX_BYTES}", text.len())));
    }
    let mut all: Value = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    Ok(all.pointer_mut("/info/features").map(Value::take))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn features_are_found_at_any_depth() {
        let features = json!({
            "tools": {"_type": "List", "feature": {"parameters": {"_type": "Json"}, "_type": {"_type": "Value", "dtype": "string"}}},
            "old": [{"a": {"_type": "Json"}}],
            "whole": {"_type": "Json"},
        });
        let row = Feature::of(Some(&features));
        assert!(row.field("whole").is_json() && !row.is_json());
        assert!(row.field("tools").element().field("parameters").is_json());
        assert!(row.field("old").element().field("a").is_json());
        assert!(!row.field("tools").element().field("_type").is_json());
        for none in
            [row.field("none"), row.field("tools").field("feature"), row.element(), Feature::default().element()]
        {
            assert!(!none.is_json());
        }
    }
}
