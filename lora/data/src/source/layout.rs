//! Tells from the beginning of a text how it holds its rows: as lines, as one array, as CSV, or in a way that is not read.

use std::path::Path;

use serde_json::{Map, Value};

use super::column_map::ColumnMap;
use super::endings::ending;
use super::error::SourceError;

/// How many bytes at the start of a text are looked at.
pub(crate) const LOOK_BYTES: usize = 64 << 10;
/// Longest column name in a first line that may be a header, in bytes.
const LONGEST_NAME: usize = 64;
/// Keys that hold the rows if one object encloses all of them.
const AROUND_ROWS: [&str; 8] = ["data", "rows", "train", "test", "examples", "instances", "items", "results"];

/// How a text holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextLayout {
    /// One JSON object on each line.
    Lines,
    /// One JSON array of all rows.
    Array,
    /// CSV, with its delimiter.
    Csv { delimiter: u8 },
}

impl TextLayout {
    /// Returns the layout of a text that begins with `head`. `is_whole` says whether `head` is the whole text. The ending of the
    /// file's name counts only if the text does not begin like JSON.
    ///
    /// # Errors
    /// [`SourceError`] for JSON or YAML in a layout that is not read.
    pub(crate) fn of(path: &Path, head: &[u8], is_whole: bool, map: &ColumnMap) -> Result<TextLayout, SourceError> {
        let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
        let is_whole = is_whole && head.len() <= LOOK_BYTES;
        let head = &head[..head.len().min(LOOK_BYTES)];
        let text = head.trim_ascii_start();
        let named = delimiter_by_name(path);
        match text.first() {
            None => Ok(TextLayout::Lines),
            Some(b'[') if named.is_none() || text[1..].trim_ascii_start().starts_with(b"{") => Ok(TextLayout::Array),
            Some(b'{') => object(path, text, is_whole, map),
            _ if named.is_none() && is_yaml(text, map) => Err(SourceError::Yaml { path: path.to_owned() }),
            _ => Ok(csv(text, named, map).map_or(TextLayout::Lines, |delimiter| TextLayout::Csv { delimiter })),
        }
    }
}

/// Returns the delimiter that the name of a file implies, compressed or not.
fn delimiter_by_name(path: &Path) -> Option<u8> {
    match ending(path.file_name()?.to_str()?)?.as_str() {
        "csv" => Some(b','),
        "tsv" | "tab" => Some(b'\t'),
        _ => None,
    }
}

/// Whether a text begins like a YAML list (`- prompt: ...`), or like a YAML object with a column that is read.
fn is_yaml(text: &[u8], map: &ColumnMap) -> bool {
    let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#") && *line != b"---");
    let Some(Ok(line)) = lines.next().map(std::str::from_utf8) else { return false };
    let (in_list, entry) = line.strip_prefix("- ").map_or((false, line), |entry| (true, entry));
    let Some((key, value)) = entry.split_once(':') else { return false };
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_known = || in_list || map.reads(key) || AROUND_ROWS.contains(&key);
    is_key && (value.is_empty() || value.starts_with(' ')) && is_known()
}

/// Returns the delimiter of a text. `None` if it is not CSV.
fn csv(text: &[u8], named: Option<u8>, map: &ColumnMap) -> Option<u8> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let count = |delimiter: u8| line.iter().filter(|&&byte| byte == delimiter).count();
    // the most frequent delimiter; if several are equally frequent, the last of this list
    let most =
        [b'|', b';', b'\t', b','].into_iter().max_by_key(|&delimiter| count(delimiter)).filter(|&d| count(d) > 0);
    if let Some(named) = named {
        // some programs use another delimiter in files with these endings
        return Some(most.filter(|_| count(named) == 0).unwrap_or(named));
    }
    // a line that is a JSON value is a bad row, not a header
    if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
        return None;
    }
    let delimiter = most.unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(line);
    let header = reader.records().next()?.ok()?;
    let is_name = |name: &str| name.len() <= LONGEST_NAME && !name.is_empty();
    let is_identifier = |name: &str| {
        let mut characters = name.chars();
        characters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && characters.all(|c| c.is_alphanumeric() || "_-.".contains(c))
    };
    let names: Vec<&str> = header.iter().map(str::trim).collect();
    let named_by_us = names.iter().any(|name| map.reads(name)) && names.iter().skip(1).all(|name| is_name(name));
    let identifiers = names.len() > 1 && names.iter().all(|name| is_name(name) && is_identifier(name));
    (named_by_us || identifiers).then_some(delimiter)
}

/// Returns the layout of a text that begins with an object.
fn object(path: &Path, text: &[u8], is_whole: bool, map: &ColumnMap) -> Result<TextLayout, SourceError> {
    let path = || path.to_owned();
    let line_end = text.iter().position(|&byte| byte == b'\n');
    let first_line = &text[..line_end.unwrap_or(text.len())];
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let outcome = values.next();
    let end = values.byte_offset();
    match outcome {
        Some(Ok(Value::Object(row))) => {
            let several_lines = line_end.is_some_and(|line_end| line_end < end);
            let is_alone = is_whole && text[end..].trim_ascii().is_empty();
            let is_row = row.keys().any(|name| map.reads(name) && name != map.column("id"));
            if !several_lines && !is_alone {
                return Ok(TextLayout::Lines);
            }
            let of_objects =
                |value: &Value| value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_object));
            if let Some((key, _)) = row.iter().find(|(_, value)| of_objects(value)).filter(|_| !is_row) {
                return Err(SourceError::AroundRows { path: path(), key: key.clone() });
            }
            if is_row && row.len() > 1 && is_table(&row, map) {
                return Err(SourceError::ByColumn { path: path() });
            }
            if several_lines { Err(SourceError::SeveralLines { path: path() }) } else { Ok(TextLayout::Lines) }
        }
        // the object is longer than the bytes that were looked at
        Some(Err(error)) if error.is_eof() && !is_whole => {
            let is_read = |name: &str| map.reads(name) && name != map.column("completions");
            let is_around =
                |name: &str, inside: &[u8]| AROUND_ROWS.contains(&name) && inside.trim_ascii_start().starts_with(b"{");
            match first_entry(text) {
                Some((name, after)) if is_read(&name) && begins_column(after) => {
                    Err(SourceError::ByColumn { path: path() })
                }
                Some((name, [b'[', inside @ ..])) if is_around(&name, inside) => {
                    Err(SourceError::AroundRows { path: path(), key: name })
                }
                _ if line_end.is_some() => Err(SourceError::SeveralLines { path: path() }),
                _ => Ok(TextLayout::Lines),
            }
        }
        // the object is broken, and its first line is only the opening brace
        _ if line_end.is_some()
            && first_line.trim_ascii() == b"{"
            && text[1..].trim_ascii_start().starts_with(b"\"") =>
        {
            Err(SourceError::SeveralLines { path: path() })
        }
        // the parser of rows reports what is wrong
        _ => Ok(TextLayout::Lines),
    }
}

/// Returns the key of the first entry of an object, and all text from the start of its value on.
fn first_entry(text: &[u8]) -> Option<(String, &[u8])> {
    let inside = text.strip_prefix(b"{")?.trim_ascii_start();
    let mut names = serde_json::Deserializer::from_slice(inside).into_iter::<String>();
    let name = names.next()?.ok()?;
    let after = inside[names.byte_offset()..].trim_ascii_start().strip_prefix(b":")?;
    Some((name, after.trim_ascii_start()))
}

/// Whether an object is a table stored by columns: every value is a column by [`is_column`], all columns have the same number of
/// cells, and the cells of `completions` are lists.
fn is_table(object: &Map<String, Value>, map: &ColumnMap) -> bool {
    let cells = |value: &Value| value.as_array().map(Vec::len).or_else(|| value.as_object().map(Map::len));
    let mut counts = object.values().map(cells);
    let first = counts.next().flatten();
    let answers = object.get(map.column("completions")).and_then(Value::as_array);
    object.values().all(is_column)
        && counts.all(|count| count == first)
        && answers.is_none_or(|answers| answers.iter().all(Value::is_array))
}

/// Whether a value is a column of a table: a list without objects, or an object whose keys are the numbers of the rows.
fn is_column(value: &Value) -> bool {
    match value {
        Value::Array(all) => !all.is_empty() && !all.iter().any(Value::is_object),
        Value::Object(all) => all.keys().next().is_some_and(|key| key == "0"),
        _ => false,
    }
}

/// Whether a text begins like a value that [`is_column`] accepts.
fn begins_column(text: &[u8]) -> bool {
    let mut rest = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let first = (rest.next(), rest.next(), rest.next());
    matches!(first, (Some(b'['), Some(b'"' | b'['), _) | (Some(b'{'), Some(b'"'), Some(b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str, text: &str) -> Result<TextLayout, SourceError> {
        let text = text.as_bytes();
        TextLayout::of(
            Path::new(name),
            &text[..text.len().min(LOOK_BYTES)],
            text.len() <= LOOK_BYTES,
            &ColumnMap::default(),
        )
    }

    #[test]
    fn a_text_is_what_its_beginning_says() {
        let csv = |delimiter: u8| TextLayout::Csv { delimiter };
        for (name, text, expected) in [
            ("a.jsonl", "", TextLayout::Lines),
            ("a.jsonl", "{\"prompt\": 1}\n{", TextLayout::Lines),
            ("a.csv", "{\"prompt\": 1}\n{}", TextLayout::Lines),
            ("a.jsonl", "\u{FEFF}\n [{}]", TextLayout::Array),
            ("a.csv", "[id],prompt\n1,a", csv(b',')),
            ("a.csv", "[ {}]", TextLayout::Array),
            ("a.csv", "text\na", csv(b',')),
            ("a.CSV.gz", "prompt;chosen\na;b", csv(b';')),
            ("a.tsv", "prompt\tchosen, really\na\tb", csv(b'\t')),
            ("a.tsv.zst", "text\na", csv(b'\t')),
            ("rows", "prompt,chosen,rejected\n", csv(b',')),
            ("rows", "\"prompt\",\"the answer\"\n", csv(b',')),
            ("rows.txt", "question\tgood\tbad\nq\ta\tb", csv(b'\t')),
            ("rows", "text\na", csv(b',')),
            // neither JSON nor names of columns
            ("rows", "Hello there, world\n", TextLayout::Lines),
            ("rows", "not json\n", TextLayout::Lines),
            ("rows", "1\n2\n", TextLayout::Lines),
            ("rows", "null,1\n", TextLayout::Lines),
            ("rows", "{'prompt': 1}\n", TextLayout::Lines),
            ("rows", "note: a text, no column\n", TextLayout::Lines),
            ("a.csv", "prompt: the first\na", csv(b',')),
            ("rows", "{\"prompt\": \"a\", \"cho\n{\"prompt\": \"b\"}\n", TextLayout::Lines),
        ] {
            assert_eq!(layout(name, text).unwrap(), expected, "{name}: {text}");
        }
    }

    #[test]
    fn what_is_json_and_no_rows_is_told_apart() {
        let long = "x".repeat(LOOK_BYTES);
        let several = |text: &str| matches!(layout("a.json", text), Err(SourceError::SeveralLines { .. }));
        let by_column = |text: &str| matches!(layout("a.json", text), Err(SourceError::ByColumn { .. }));
        let around = |text: &str| match layout("a.json", text) {
            Err(SourceError::AroundRows { key, .. }) => Some(key),
            _ => None,
        };
        assert!(several("{\n\"prompt\": \"a\"\n}\n{\n\"prompt\": \"b\"\n}"));
        assert!(several(&format!("{{\n\"prompt\": \"{long}\"\n}}")) && several("{\n  \"score\": NaN\n}"));
        assert!(
            by_column("{\"prompt\": [\"a\"], \"chosen\": [\"b\"]}")
                && by_column("{\"prompt\": {\"0\": \"a\"},\n\"text\": {\"0\": 1}}")
        );
        assert!(
            by_column(&format!("{{\"prompt\": [\"{long}\""))
                && by_column(&format!("{{\n\"prompt\": {{\"0\":\"{long}\""))
        );
        assert_eq!(around("{\"version\": 1, \"pairs\": [{\"prompt\": \"a\"}]}").unwrap(), "pairs");
        assert_eq!(around(&format!("{{\"data\": [ {{\"prompt\": \"{long}\"")).unwrap(), "data");
        for yaml in [
            "- prompt: a\n  chosen: b\n",
            "# rows\n---\n- id: 1\n  prompt: a\n",
            "prompt: a\nchosen: b\n---\n",
            "prompt:\n",
            "data:\n  - prompt: a\n",
        ] {
            assert!(matches!(layout("a.yaml", yaml), Err(SourceError::Yaml { .. })), "{yaml}");
        }
        // a text of more than `LOOK_BYTES` does not count as whole, even if all of it was given
        let text = format!("{{\"data\": [{{\"prompt\": \"{long}\"}}]}}");
        let given = TextLayout::of(Path::new("a.json.gz"), text.as_bytes(), true, &ColumnMap::default());
        assert!(matches!(given, Err(SourceError::AroundRows { .. })));
        // a table of scored rows, and single rows that look like one
        let scored = "{\"prompt\": [\"a\"], \"completions\": [[\"b\", \"c\"]], \"rewards\": [[1, 0]]}";
        assert!(by_column(scored));
        for row in
            ["{\"completions\": [\"a\", \"b\"], \"rewards\": [1, 0]}", "{\"messages\": [[\"a\"]], \"rewards\": [1, 0]}"]
        {
            assert_eq!(layout("a.json", row).unwrap(), TextLayout::Lines, "{row}");
        }
        let mapped: ColumnMap = "completions=answers".parse().unwrap();
        for row in
            ["{\"answers\": [\"a\", \"b\"], \"rewards\": [1, 0]}".to_owned(), format!("{{\"answers\": [\"{long}\"")]
        {
            let (head, is_whole) = (&row.as_bytes()[..row.len().min(LOOK_BYTES)], row.len() <= LOOK_BYTES);
            assert_eq!(TextLayout::of(Path::new("a"), head, is_whole, &mapped).unwrap(), TextLayout::Lines, "{row}");
        }
        let turns = "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": [{}]}";
        assert_eq!(layout("a.json", turns).unwrap(), TextLayout::Lines);
        assert_eq!(layout("a.json", "{\"x\": [{}]}\n{\"x\": [{}]}").unwrap(), TextLayout::Lines);
        assert_eq!(layout("a.json", &format!("{{\"completions\": [\"{long}\"")).unwrap(), TextLayout::Lines);
        assert_eq!(
            layout("a.json", &format!("{{\"messages\": [{{\"content\": \"{long}\"")).unwrap(),
            TextLayout::Lines
        );
    }
}
