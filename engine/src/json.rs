//! Reads a JSON object from a file that somebody else wrote.

use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// Size of the largest JSON file that is read, in bytes. The largest `model.safetensors.index.json` in public use is below 20 MB.
const MAX_BYTES: u64 = 256 << 20;

/// No JSON object could be read from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum JsonError {
    #[error("{path}: cannot read it: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path}: {bytes} bytes is not a plausible size for a JSON file (at most {MAX_BYTES})")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path}: broken JSON: {source}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path}: expected a JSON object, found {found}")]
    NotAnObject { path: PathBuf, found: &'static str },
}

/// Reads the bytes of a regular file. Refuses a pipe or a device before opening it, since it could block or never end.
///
/// # Errors
/// [`JsonError::Read`], [`JsonError::NotAFile`], [`JsonError::TooLarge`].
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, JsonError> {
    let read_error = |source| JsonError::Read { path: path.to_owned(), source };
    let facts = std::fs::metadata(path).map_err(read_error)?;
    if !facts.is_file() {
        return Err(JsonError::NotAFile { path: path.to_owned() });
    }
    if facts.len() > MAX_BYTES {
        return Err(JsonError::TooLarge { path: path.to_owned(), bytes: facts.len() });
    }
    std::fs::read(path).map_err(read_error)
}

/// Reads the object in `path`.
///
/// # Errors
/// Every variant of [`JsonError`]. Nesting deeper than 128 levels is a [`JsonError::Parse`].
pub fn read_object(path: &Path) -> Result<Map<String, Value>, JsonError> {
    let bytes = read_bytes(path)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(JsonError::NotAnObject { path: path.to_owned(), found: kind(&other) }),
        Err(source) => Err(JsonError::Parse { path: path.to_owned(), source }),
    }
}

/// Returns the kind of a value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Makes one short line of text that comes from a file: escapes control characters, and replaces everything after the first
/// `longest` characters by `...`.
pub fn shorten(text: &str, longest: usize) -> String {
    let mut line = String::new();
    for character in text.chars().take(longest) {
        match character.is_control() {
            true => line.extend(character.escape_debug()),
            false => line.push(character),
        }
    }
    if text.chars().nth(longest).is_some() { line + "..." } else { line }
}
