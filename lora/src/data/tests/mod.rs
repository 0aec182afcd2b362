//! Data, from files to batches of token ids: against other programs, by property, and what is refused.

mod batches;
mod dataset;
mod encoder;
mod goldens;
mod orders;
mod parity;
mod prompts;
mod rows;
mod sequences;
pub(super) mod sources;
mod token_cache;
mod tokenizers;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::data::{DataError, Dataset, Encoder, ImplicitPrompt, Needs, OnBadRow, Reading};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name).join("model")
}

/// The tiny models have fewer rows; their exact number is checked by the golden tests.
const ROWS: usize = 4096;

fn encoder(name: &str, max_length: usize) -> Encoder {
    let encoder = Encoder::from_model(&tiny(name), None, max_length, ROWS).unwrap();
    // TRL's rule for the prompts of pairs of texts
    encoder.with_reading(Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() })
}

fn file(lines: &[String]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

fn open(lines: &[String], needs: Needs, on_bad_row: OnBadRow) -> Result<Dataset, DataError> {
    let file = file(lines);
    // the open handle keeps the rows readable after the name is gone
    Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), needs, on_bad_row)
}

fn pair(i: usize) -> String {
    json!({"prompt": format!("Question {i}?"), "chosen": format!(" good {i}"), "rejected": format!(" bad {i}"), "id": i}).to_string()
}

fn lines(rows: &[Value]) -> Vec<String> {
    rows.iter().map(Value::to_string).collect()
}
