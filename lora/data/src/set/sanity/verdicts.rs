//! Compares unread columns that say which answer is better with the columns that are read as chosen and rejected.

use serde_json::{Map, Value};

use super::{Finding, Sighting};
use crate::record::records::Parsed;
use crate::row::Target;
use crate::source::column_names::{is_score, is_verdict};
use crate::tokens::encode::Encoder;

/// Maximum number of characters of a verdict. A longer text is an answer, or the reason for a verdict.
const LONGEST: usize = 24;
/// Maximum number of columns of a row to look at.
const COLUMNS: usize = 16;

/// Looks for unread scores and verdicts that may contradict which answer of a pair is read as chosen. `line` is the record's bytes.
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8], found: &mut Vec<Sighting>) {
    let Parsed { record, ignored_columns: unread, .. } = parsed;
    if record.target != Some(Target::Pair) || !unread.iter().any(|name| is_score(name) || is_verdict(name)) {
        return;
    }
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) else { return };
    let columns = ["chosen", "rejected"].map(|own| encoder.reading().columns.column(own));
    let of_scores = unread.iter().filter(|name| is_score(name)).take(COLUMNS);
    let scores: Vec<Scores<'_>> = of_scores.filter_map(|name| Scores::of(name, columns, &row)).collect();
    // if there are several scores, some may favour the rejected answer: report them only if all do
    if let Some(lowest) = scores.first().filter(|_| scores.iter().all(|scores| scores.chosen < scores.rejected)) {
        let finding = Finding::LowerScoreChosen { chosen: lowest.name.to_owned(), rejected: lowest.other.clone() };
        let values = format!("{} and {}", lowest.chosen, lowest.rejected);
        found.push(Sighting::new(finding, lowest.name.to_owned(), &values));
    }
    // if the user names the columns, the chosen answer is in the same column in all rows, and a verdict may contradict that
    if columns != ["chosen", "rejected"] {
        for column in unread.iter().filter(|name| is_verdict(name)).take(COLUMNS) {
            if let Some(value) = row.get(column).and_then(verdict) {
                let finding = Finding::UnreadVerdict { column: column.clone(), value: value.clone() };
                found.push(Sighting::new(finding, column.clone(), &value));
            }
        }
    }
}

/// Returns a value, as JSON, if it may say which answer is better: a number, a boolean or a short text. `None` otherwise.
fn verdict(value: &Value) -> Option<String> {
    let is_short = matches!(value, Value::Number(_) | Value::Bool(_))
        || value.as_str().is_some_and(|text| text.chars().count() <= LONGEST);
    is_short.then(|| value.to_string())
}

/// The scores of the two answers in an unread column and its partner.
struct Scores<'a> {
    name: &'a str,
    other: String,
    chosen: f64,
    rejected: f64,
}

impl<'a> Scores<'a> {
    /// Reads the scores. `None` if `name` is not the column of the chosen answer's score, or if a score is not a number. The
    /// partner has the same name with `rejected` in place of `chosen`. If the answers are in columns like `answer_0` and
    /// `answer_1`, the parts in which these differ, `0` and `1`, are exchanged in the same way.
    fn of(name: &'a str, columns: [&str; 2], row: &Map<String, Value>) -> Option<Scores<'a>> {
        let number = |name: &str| match row.get(name)? {
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            value => value.as_f64(),
        };
        let words = [("chosen", "rejected"), ("Chosen", "Rejected"), difference(columns)?];
        let partner = |(of_chosen, of_rejected): (&str, &str)| {
            let at = name.rfind(of_chosen).filter(|_| !of_chosen.is_empty() && !of_rejected.is_empty())?;
            Some([&name[..at], of_rejected, &name[at + of_chosen.len()..]].concat())
        };
        let other = words.into_iter().filter_map(partner).find(|other| other != name && row.contains_key(other))?;
        Some(Scores { name, chosen: number(name)?, rejected: number(&other)?, other })
    }
}

/// Returns the parts in which two names differ: `A` and `B` for `ref_A` and `ref_B`.
fn difference([a, b]: [&str; 2]) -> Option<(&str, &str)> {
    let alike = |(a, b): &((usize, char), char)| a.1 == *b;
    let start =
        a.char_indices().zip(b.chars()).find(|both| !alike(both)).map_or(a.len().min(b.len()), |((at, _), _)| at);
    let (a, b) = (a.get(start..)?, b.get(start..)?);
    let end: usize = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    Some((a.get(..a.len() - end)?, b.get(..b.len() - end)?))
}
