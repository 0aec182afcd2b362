//! Reads the configs of a data set from the YAML at the head of its README.md.
//!
//! Source: the hub's documentation, "Manual configuration" of data files.

use std::io;
use std::path::Path;

use align_engine::bounded_read::read_regular;
use serde_json::{Map, Value};
use yaml_rust2::{Event, parser::Parser};

/// Largest README.md that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// Maximum depth of nested lists and maps.
const MAX_DEPTH: usize = 32;

/// A config of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub name: String,
    /// Whether README.md marks it as the default.
    pub is_default: bool,
    /// Folder that holds its files.
    pub data_dir: Option<String>,
    /// The splits, each with the patterns of its files. Empty if the names of the files decide which split they belong to.
    pub splits: Vec<(String, Vec<String>)>,
}

/// Reads the configs from README.md in a folder. Empty if there is no README.md, or if it has no configs.
///
/// # Errors
/// A message if README.md cannot be read, or if its YAML is broken.
pub(super) fn configs(folder: &Path) -> Result<Vec<Config>, String> {
    let text = match read_regular(&folder.join("README.md"), MAX_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let text = String::from_utf8_lossy(&text);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Ok(Vec::new());
    }
    let head: String = lines.take_while(|line| line.trim_end() != "---").flat_map(|line| [line, "\n"]).collect();
    let head = parse(&head)?;
    let all = head.get("configs").and_then(Value::as_array).into_iter().flatten();
    Ok(all.map(config).collect())
}

fn config(value: &Value) -> Config {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    let mut put = |split: &str, patterns: Vec<String>| match splits.iter_mut().find(|(known, _)| known == split) {
        Some((_, all)) => all.extend(patterns),
        None => splits.push((split.to_owned(), patterns)),
    };
    match value.get("data_files") {
        Some(Value::Array(entries)) => {
            for entry in entries {
                match (entry.get("split").and_then(Value::as_str), entry.get("path")) {
                    (split, Some(path)) => put(split.unwrap_or("train"), texts(path)),
                    _ => put("train", texts(entry)),
                }
            }
        }
        Some(Value::Object(by_split)) => by_split.iter().for_each(|(split, paths)| put(split, texts(paths))),
        Some(path @ Value::String(_)) => put("train", texts(path)),
        _ => {}
    }
    Config {
        name: text("config_name").unwrap_or_else(|| "default".to_owned()),
        is_default: value.get("default").is_some_and(|default| default == "true"),
        data_dir: text("data_dir"),
        splits,
    }
}

/// Returns the strings in a value that is a string or a list of strings. Empty for any other value.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Parses a YAML document. Every scalar becomes a string. References become null, since they could make the value grow without
/// bound.
fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    // lists and maps that are still open; a map comes with the key of its next value
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    loop {
        let (event, place) = parser.next_token().map_err(|error| error.to_string())?;
        let done = match event {
            Event::StreamEnd => return Ok(Value::Null),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == MAX_DEPTH => {
                return Err(format!("line {}: more than {MAX_DEPTH} lists and maps in one another", place.line()));
            }
            Event::SequenceStart(..) => {
                open.push((Value::Array(Vec::new()), None));
                continue;
            }
            Event::MappingStart(..) => {
                open.push((Value::Object(Map::new()), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map_or(Value::Null, |(value, _)| value),
            Event::Scalar(text, ..) => Value::String(text),
            Event::Alias(_) => Value::Null,
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(done),
            Some((Value::Array(all), _)) => all.push(done),
            Some((Value::Object(all), key)) => match key.take() {
                Some(key) => drop(all.insert(key, done)),
                None => *key = Some(done.as_str().unwrap_or_default().to_owned()),
            },
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Config>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("README.md"), text).unwrap();
        configs(folder.path())
    }

    #[test]
    fn every_form_of_data_files_is_read() {
        let text = "---\nlicense: mit\nconfigs:\n- config_name: a\n  default: true\n  data_files:\n  - split: train\n    path: \"t-*.csv\"\n  - split: test\n    path:\n    - x.csv\n    - y.csv\n- config_name: b\n  data_files: {train: [z.jsonl], dev: d.jsonl}\n- config_name: c\n  data_dir: c\n- config_name: d\n  data_files: all.jsonl\n- config_name: e\n  data_files:\n    - p.jsonl\n    - q.jsonl\n---\n# Text\n";
        let found = of(text).unwrap();
        let show = |config: &Config| {
            let splits: Vec<String> =
                config.splits.iter().map(|(split, paths)| format!("{split}={}", paths.join("+"))).collect();
            format!("{} {} {:?} {}", config.name, config.is_default, config.data_dir, splits.join(" "))
        };
        let expected = [
            "a true None train=t-*.csv test=x.csv+y.csv",
            "b false None train=z.jsonl dev=d.jsonl",
            "c false Some(\"c\") ",
            "d false None train=all.jsonl",
            "e false None train=p.jsonl+q.jsonl",
        ];
        assert_eq!(found.iter().map(show).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_readme_is_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let readme = folder.path().join("README.md");
        std::os::unix::fs::symlink("/dev/zero", &readme).unwrap();
        assert_eq!(configs(folder.path()), Err("is not a regular file".to_owned()));
        std::fs::remove_file(&readme).unwrap();
        let long = std::fs::File::create(&readme).unwrap();
        long.set_len(1 << 40).unwrap();
        assert_eq!(configs(folder.path()), Err("has more than 16777216 bytes".to_owned()));
    }

    #[test]
    fn what_has_no_configs_has_none_and_nothing_grows() {
        for text in ["", "# Text\n", "---\nlicense: mit\n---\n", "---\nconfigs: 1\n---\n", "---\n---\n"] {
            assert_eq!(of(text), Ok(Vec::new()), "{text}");
        }
        assert!(of("---\nconfigs: [\n---\n").is_err());
        assert!(of(&format!("---\nconfigs: {}\n---\n", "[".repeat(100_000))).is_err());
        let mut bomb = "---\na: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (one, next) in "abcdefghi".chars().zip("bcdefghij".chars()) {
            bomb += &format!("{next}: &{next} [{}]\n", vec![format!("*{one}"); 9].join(", "));
        }
        assert_eq!(of(&(bomb + "configs: *j\n---\n")), Ok(Vec::new()));
    }
}
