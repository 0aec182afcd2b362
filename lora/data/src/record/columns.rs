//! The columns of a row, from a strict parse of the top level of its object.

use align_engine::json::kind;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::bad_row::BadRow;
use super::python_literal;
use crate::source::column_map::{CONVERSATIONS, ColumnMap, PROMPT_NAMES, Seen, is_other_name};
use crate::source::strict_json::{Strict, words_of};

/// Sets of columns. The columns of a set together hold the answers of a row.
const ANSWERS: [&[&str]; 5] =
    [&["chosen", "rejected"], &["completions", "rewards"], &["completion"], &["messages"], &["text"]];

/// The columns of one row: the values of those that we read, by our names, and the file's names of the others.
pub(crate) struct Columns<'m> {
    map: &'m ColumnMap,
    known: Map<String, Value>,
    /// Columns that may be read under one of our names, by the file's names.
    spare: Map<String, Value>,
    /// Names of all other columns, the spare ones included.
    others: Vec<String>,
    /// Our name and the file's, for columns that are read though the map does not name them.
    by_name: Vec<(&'static str, String)>,
}

impl<'m> Columns<'m> {
    pub(crate) fn parse(text: &str, map: &'m ColumnMap) -> Result<Columns<'m>, BadRow> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let columns = parser.deserialize_any(ColumnsVisitor { map }).and_then(|columns| parser.end().map(|()| columns));
        let columns = columns.map_err(|e| {
            let (message, column) = (words_of(text, &e), e.column());
            match other_kind(text).filter(|_| e.is_data()) {
                Some(found) => BadRow::NotObject { found },
                None if is_python(text) => BadRow::PythonRow,
                None => not_a_number(text, column).unwrap_or(BadRow::Json { message, column }),
            }
        })?;
        // the parser turns an id beyond 64 bits into a float, so outputs would echo another id than the file's
        match columns.known.get("id").and_then(Value::as_number) {
            Some(id) if id.is_f64() && id.as_f64().is_some_and(|id| id.abs() >= 2f64.powi(63)) => Err(BadRow::Type {
                field: columns.column("id"),
                found: "a number beyond 64 bits",
                expected: "a string, or a number that fits in 64 bits",
            }),
            _ => Ok(columns),
        }
    }

    /// Takes the value of our column `name` and leaves null. `None` if the row lacks the column.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.get_mut(name).map(Value::take)
    }

    /// Takes the value as [`Columns::take`] does. Returns the file's name of the column and the value, which is null if the row
    /// lacks the column.
    pub(crate) fn take_named(&mut self, name: &str) -> (String, Value) {
        (self.column(name), self.take(name).unwrap_or_default())
    }

    /// Returns the value of our column `name` and leaves it in place.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.known.get(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// Sets the name that messages use for our column `name`, which the row lacks.
    pub(crate) fn call(&mut self, name: &'static str, column: &str) {
        self.by_name.push((name, column.to_owned()));
    }

    /// Stores a value under our name. It comes from `column` of the file, or from a field of it.
    pub(crate) fn set(&mut self, name: &'static str, column: String, value: Value) {
        self.known.insert(name.to_owned(), value);
        self.by_name.push((name, column));
    }

    /// Notes in `by_name` that our column `name` is read though few users would expect it. Does nothing if the map names the
    /// column.
    pub(crate) fn note(&mut self, name: &'static str) {
        if !self.map.is_mapped(name) && !self.by_name.iter().any(|(own, _)| *own == name) {
            self.by_name.push((name, name.to_owned()));
        }
    }

    /// Returns the value of a spare column, by the file's name. `None` if it is missing or null.
    pub(crate) fn spare(&self, column: &str) -> Option<&Value> {
        self.spare.get(column).filter(|value| !value.is_null())
    }

    /// Reads our column `name` from the spare column `column`. Does nothing if the map names our column, if the row has it
    /// already, or if `column` is missing or null.
    pub(crate) fn adopt(&mut self, name: &'static str, column: &str) {
        if self.has(name) || self.map.is_mapped(name) || self.spare(column).is_none() {
            return;
        }
        let value = self.spare.remove(column).unwrap_or_default();
        self.others.retain(|other| other != column);
        self.set(name, column.to_owned(), value);
    }

    /// Drops null columns whose content is elsewhere: those of the answers if another set of columns has a value, and the prompt
    /// if another column may hold it.
    pub(crate) fn drop_nulls(&mut self) {
        let has_value = |own: &&str| self.known.get(*own).is_some_and(|value| !value.is_null());
        let (full, empty): (Vec<&[&str]>, Vec<&[&str]>) =
            ANSWERS.into_iter().partition(|columns| columns.iter().any(has_value));
        if !full.is_empty() {
            empty.into_iter().flatten().for_each(|own| drop(self.known.remove(*own)));
        }
        let is_null = self.known.get("prompt").is_some_and(Value::is_null) && !self.map.is_mapped("prompt");
        let has_other = PROMPT_NAMES.into_iter().any(|name| self.spare(name).is_some())
            || ["messages", "text"].into_iter().any(|name| self.known.get(name).is_some_and(|value| !value.is_null()));
        if is_null && has_other {
            self.known.remove("prompt");
        }
    }

    /// Whether the map names a column of the file for our column `name`.
    pub(crate) fn is_mapped(&self, name: &str) -> bool {
        self.map.is_mapped(name)
    }

    /// Returns our columns that have other names in the file and are read without a map, and those that [`Columns::note`] noted.
    /// Each comes with the file's name.
    pub(crate) fn by_name(self) -> Vec<(&'static str, String)> {
        self.by_name
    }

    /// Returns the file's name for our column, for messages.
    pub(crate) fn column(&self, name: &str) -> String {
        let by_name = self.by_name.iter().find(|(own, _)| *own == name);
        by_name.map_or_else(|| self.map.column(name).to_owned(), |(_, column)| column.clone())
    }

    pub(crate) fn seen(&self) -> Seen {
        let bits = self.map.iter().enumerate().filter(|(_, (own, _))| self.has(own));
        bits.map(|(i, _)| 1 << i).sum()
    }

    /// Returns the file's names of up to twelve columns, in alphabetical order. Columns that we read are chosen before others.
    pub(crate) fn some_names(&self) -> String {
        let known = self.known.keys().map(|own| self.column(own));
        let mut found: Vec<String> = known.chain(self.others.iter().cloned()).take(12).collect();
        found.sort_unstable();
        found.join(", ")
    }

    /// Returns the file's names of all columns except `used` (our names).
    pub(crate) fn names_except(&self, used: &[&str]) -> Vec<String> {
        let unused = self.known.keys().filter(|own| !used.contains(&own.as_str()));
        unused.map(|own| self.column(own)).chain(self.others.iter().cloned()).collect()
    }
}

/// Whether a row is a dictionary as Python prints it, with its keys in single quotes.
fn is_python(text: &str) -> bool {
    let inside = text.trim().strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with('\'')) && python_literal::parse(text.trim()).is_some()
}

/// Returns the error for a number that only Python's JSON has, if the parser met one at the 1-based byte `column`.
fn not_a_number(text: &str, column: usize) -> Option<BadRow> {
    // the parser is at the first wrong byte, or just after it
    let at = text.get(..column.min(text.len()))?.rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |end| end + 1);
    let (before, rest) = text.split_at(at);
    let word = &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())];
    let found = match word {
        "NaN" | "nan" => "NaN",
        "Infinity" | "inf" if before.ends_with('-') => "-Infinity",
        "Infinity" | "inf" => "Infinity",
        _ => return None,
    };
    Some(BadRow::NotANumber { column: last_key(before)?, found })
}

/// Returns the last key at the top level of an object whose text may be cut off.
fn last_key(text: &str) -> Option<String> {
    let (mut depth, mut in_string, mut is_escaped, mut start) = (0usize, false, false, 0);
    let mut key = None;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => {
                in_string = !in_string;
                if in_string {
                    start = at;
                } else if depth == 1 && text[at + 1..].trim_start().starts_with(':') {
                    key = Some(&text[start..=at]);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_str(key?).ok()
}

/// Returns the kind of a value that is not an object, by its first byte.
fn other_kind(text: &str) -> Option<&'static str> {
    Some(match text.trim_start().bytes().next()? {
        b'n' => "null",
        b't' | b'f' => "a boolean",
        b'"' => "a string",
        b'[' => "a list",
        b'-' | b'0'..=b'9' => "a number",
        _ => return None,
    })
}

/// Makes the error for a value of a kind that is not accepted.
pub(crate) fn wrong_type(field: String, found: &Value, expected: &'static str) -> BadRow {
    match found {
        Value::Null => BadRow::Null { field },
        found => BadRow::Type { field, found: kind(found), expected },
    }
}

/// Reads the top level of a row. Each key may occur only once. Values of unknown columns are checked as JSON and not kept.
struct ColumnsVisitor<'m> {
    map: &'m ColumnMap,
}

impl<'de, 'm> Visitor<'de> for ColumnsVisitor<'m> {
    type Value = Columns<'m>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns<'m>, A::Error> {
        let (known, spare) = (Map::new(), Map::new());
        let mut columns = Columns { map: self.map, known, spare, others: Vec::new(), by_name: Vec::new() };
        let mut others = std::collections::HashSet::new();
        let mut conversations = None;
        let twice = |key: &str| A::Error::custom(format_args!("the key `{key}` stands twice"));
        while let Some(key) = map.next_key::<String>()? {
            if let Some(own) = self.map.own(&key) {
                if columns.known.contains_key(own) {
                    return Err(twice(&key));
                }
                columns.known.insert(own.to_owned(), map.next_value_seed(Strict)?);
                continue;
            }
            if key == CONVERSATIONS && conversations.is_none() {
                conversations = Some(map.next_value_seed(Strict)?);
            } else if is_other_name(&key) && !columns.spare.contains_key(&key) {
                let value = map.next_value_seed(Strict)?;
                columns.spare.insert(key.clone(), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if !others.insert(key.clone()) {
                return Err(twice(&key));
            }
            columns.others.push(key);
        }
        let has_messages = columns.known.get("messages").is_some_and(|turns| !turns.is_null());
        if let Some(turns) = conversations.filter(|_| !self.map.is_mapped("messages") && !has_messages) {
            columns.others.retain(|name| name != CONVERSATIONS);
            columns.set("messages", CONVERSATIONS.to_owned(), turns);
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_beyond_64_bits_is_refused() {
        let map = ColumnMap::default();
        let id =
            |text: &str| Columns::parse(&format!(r#"{{"id": {text}}}"#), &map).map(|mut columns| columns.take("id"));
        assert_eq!(id("18446744073709551615").unwrap(), Some(u64::MAX.into()));
        assert_eq!(id("-9223372036854775808").unwrap(), Some(i64::MIN.into()));
        assert_eq!(id("1.5").unwrap(), Some(1.5.into()));
        for beyond in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234", "1e30"] {
            let error = id(beyond).unwrap_err().to_string();
            assert_eq!(error, "`id` is a number beyond 64 bits, expected a string, or a number that fits in 64 bits");
        }
        // numbers that are not echoed may be beyond 64 bits
        assert!(Columns::parse(r#"{"margin": 18446744073709551616, "x": 18446744073709551616}"#, &map).is_ok());
    }

    #[test]
    fn a_number_that_json_has_not_is_named_with_its_column() {
        let map = ColumnMap::default();
        for (row, column, found) in [
            (r#"{"prompt": "NaN", "score": NaN}"#, "score", "NaN"),
            (r#"{"margin":-Infinity,"x":1}"#, "margin", "-Infinity"),
            (r#"{"a": {"b": [1, Infinity]}, "x": 1}"#, "a", "Infinity"),
            (r#"{"é\"": [nan]}"#, "é\"", "NaN"),
        ] {
            let error = Columns::parse(row, &map).err().unwrap();
            assert_eq!(error, BadRow::NotANumber { column: column.to_owned(), found }, "{row}");
        }
        for row in [r#"{"a": nul}"#, r#"{"a": None}"#, "NaN", r#"{"NaN": }"#] {
            let error = Columns::parse(row, &map).err().unwrap();
            assert!(matches!(error, BadRow::Json { .. }), "{row}: {error}");
        }
    }

    #[test]
    fn columns_go_by_the_map_and_by_nothing_else() {
        let map: ColumnMap = "chosen=rejected,rejected=chosen,prompt=question".parse().unwrap();
        let row = r#"{"question": "q", "chosen": "worse", "rejected": "better", "prompt": "not this", "x": 1}"#;
        let mut columns = Columns::parse(row, &map).unwrap();
        assert_eq!(columns.seen(), 0b111);
        assert_eq!(columns.names_except(&["prompt", "chosen", "rejected"]), ["prompt", "x"]);
        assert_eq!(columns.some_names(), "chosen, prompt, question, rejected, x");
        assert_eq!(columns.take("chosen"), Some("better".into()));
        assert_eq!(columns.take("rejected"), Some("worse".into()));
        assert_eq!(columns.take("prompt"), Some("q".into()));
        assert_eq!(Columns::parse("{}", &map).unwrap().seen(), 0);
    }
}
