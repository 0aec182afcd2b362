//! Tests of data from files to batches of token ids: comparisons with other programs, properties, and refusals.

mod batches;
mod dataset;
mod encoder;
mod goldens;
mod memory;
mod orders;
mod parity;
mod prompts;
mod rows;
mod sequences;
pub(super) mod sources;
mod token_cache;
mod tokenizers;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::record::bad_row::BadRow;
use crate::record::reading::{ImplicitPrompt, Reading};
use crate::record::records::{Parsed, Record};
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::tokens::encode::Encoder;

impl Record {
    /// Parses a line as a run without flags does.
    pub(crate) fn parse(row: usize, line: &[u8]) -> Result<Parsed, BadRow> {
        Record::parse_with(row, line, &Reading::default())
    }
}

/// Returns the path of a file or a folder of the goldens.
pub(super) fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(name)
}

/// Returns the folder of a tiny model.
pub(super) fn tiny(name: &str) -> PathBuf {
    goldens(name).join("model")
}

/// Rows of the embedding that these tests assume. The tiny models have fewer; the golden tests use the exact number.
pub(super) const ROWS: usize = 4096;

fn encoder(name: &str, max_length: usize) -> Encoder {
    let encoder = Encoder::from_model(&tiny(name), None, max_length, ROWS).unwrap();
    // a pair of strings without a prompt is split by TRL's rule
    encoder.with_reading(Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() })
}

pub(super) fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Writes these rows to a file, one per line.
pub(super) fn file(rows: &[impl Display]) -> tempfile::NamedTempFile {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    written(lines.as_bytes())
}

fn open(rows: &[impl Display], kind: impl Into<Option<RowKind>>, on_bad_row: OnBadRow) -> Result<Dataset, DataError> {
    let file = file(rows);
    // the open handle keeps the rows readable after the name is gone
    Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), kind, on_bad_row)
}

/// Makes turns from roles and contents.
fn turns(turns: &[(&str, &str)]) -> Value {
    turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn pair(i: usize) -> String {
    json!({"prompt": format!("Question {i}?"), "chosen": format!(" good {i}"), "rejected": format!(" bad {i}"), "id": i}).to_string()
}
