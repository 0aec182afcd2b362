//! Unread columns that say which answer is better, against the columns that are read as chosen and rejected.

use serde_json::{Map, Value};

use super::super::column_names::{is_score, is_verdict};
use super::super::encode::Encoder;
use super::super::records::{Parsed, RecordTarget};
use super::{Finding, Sighting};

/// Looks at a record, whose line is its bytes.
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8], found: &mut Vec<Sighting>) {
    let Parsed { record, ignored_columns: unread, .. } = parsed;
    if record.target != RecordTarget::Pair || !unread.iter().any(|name| is_score(name) || is_verdict(name)) {
        return;
    }
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) else { return };
    if let Some((chosen, rejected)) = unread.iter().filter(|name| is_score(name)).find_map(|name| lower(name, &row)) {
        let scores = format!("{} and {}", row[&chosen], row[&rejected]);
        let finding = Finding::LowerScoreChosen { chosen: chosen.clone(), rejected };
        found.push(Sighting::new(finding, chosen, &scores));
    }
    // the user says which column is the better answer, for all rows alike
    let columns = &encoder.reading().columns;
    if ["chosen", "rejected"].iter().any(|own| columns.column(own) != *own) {
        let scalar =
            |name: &&String| matches!(row.get(*name), Some(Value::String(_) | Value::Number(_) | Value::Bool(_)));
        if let Some(column) = unread.iter().filter(|name| is_verdict(name)).find(scalar) {
            let value = row[column].to_string();
            let finding = Finding::UnreadVerdict { column: column.clone(), value: super::excerpt(&value) };
            found.push(Sighting::new(finding, column.clone(), &value));
        }
    }
}

/// The columns of two scores, the chosen answer's below the rejected one's; `name` is the first.
fn lower(name: &str, row: &Map<String, Value>) -> Option<(String, String)> {
    let other = ["chosen", "Chosen"].iter().find(|word| name.contains(*word)).map(|word| {
        let other = if *word == "chosen" { "rejected" } else { "Rejected" };
        name.replacen(word, other, 1)
    })?;
    let number = |name: &str| row.get(name).and_then(Value::as_f64);
    (number(name)? < number(&other)?).then(|| (name.to_owned(), other))
}
