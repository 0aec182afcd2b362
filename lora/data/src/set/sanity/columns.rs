//! Finds unread columns with a name like a prompt's and a text that is neither in the prompt nor in the answers.

use serde_json::Value;

use super::{Finding, ReadAs, Sighting};
use crate::record::records::Parsed;
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::source::column_names::{Likeness, SOME_LENGTH, is_like_a_prompt, is_other_version, is_system, likeness};

/// Maximum number of columns of a row to look at.
const COLUMNS: usize = 16;
/// Maximum number of texts of a column to look for in the prompt and the answers.
const TEXTS: usize = 32;

/// Looks at the columns of a record that were not read.
pub(super) fn look(parsed: &Parsed, line: &[u8], found: &mut Vec<Sighting>) {
    let Parsed { record, ignored_columns: unread, .. } = parsed;
    let has_question = !parsed.is_prompt_blank || matches!(record.shape, Shape::Text | Shape::Messages);
    // `original_prompt` beside a `prompt` that is read is another version of that prompt
    let is_version = |name: &str| record.prompt_column.as_ref().is_some_and(|read| is_other_version(name, read));
    let may_be_meant = |name: &&String| is_like_a_prompt(name) && !is_version(name);
    if !has_question || !unread.iter().any(|name| may_be_meant(&name)) {
        return;
    }
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) else { return };
    let mut own = String::new();
    for text in std::iter::once(&record.prompt).chain(&record.answers) {
        match text {
            Text::Plain(text) => own += text,
            Text::Turns(turns) => turns.iter().flat_map(texts).for_each(|text| own += text),
        }
        own.push('\n');
    }
    for name in unread.iter().filter(may_be_meant).take(COLUMNS) {
        let Some(likeness) = likeness(name) else { continue };
        let texts = row.get(name).map(texts).unwrap_or_default();
        let length: usize = texts.iter().map(|text| text.chars().count()).sum();
        let is_list = row.get(name).is_some_and(Value::is_array);
        if likeness == Likeness::Perhaps && !is_list && length < SOME_LENGTH {
            continue;
        }
        if let Some(missing) = texts.into_iter().take(TEXTS).find(|text| !own.contains(text)) {
            let read_as = read_as(name, &row[name]);
            found.push(Sighting::new(Finding::UnreadColumn { column: name.clone(), read_as }, name.clone(), missing));
        }
    }
}

/// Returns what a column most likely holds.
fn read_as(name: &str, value: &Value) -> ReadAs {
    match value.get(0) {
        Some(Value::Array(_)) => ReadAs::Pairs,
        _ if is_system(name) => ReadAs::System,
        _ => ReadAs::Prompt,
    }
}

/// Returns the texts in a value: the value itself, or what its turns say, each without blanks around it.
pub(super) fn texts(value: &Value) -> Vec<&str> {
    let mut all = Vec::new();
    match value {
        Value::String(text) => all.push(text.trim()),
        Value::Array(items) => items.iter().for_each(|item| all.extend(texts(item))),
        Value::Object(fields) => {
            for name in ["content", "value", "text"] {
                if let Some(value) = fields.get(name) {
                    all.extend(texts(value));
                }
            }
        }
        _ => {}
    }
    all.retain(|text| !text.is_empty());
    all
}
