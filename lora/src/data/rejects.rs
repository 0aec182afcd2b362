//! Rows that are left out, written down as they stand in the data: so that they can be looked at, mended and given again.

use std::io::{Seek, Write};
use std::path::Path;

use serde_json::json;

use super::DataError;

/// Bytes that are kept in memory before a temporary file takes them.
const IN_MEMORY: usize = 1 << 20;

/// A JSON line for each record that is left out: `{"file", "line", "reason", "row"}`.
#[derive(Debug)]
pub(super) struct Rejects {
    lines: tempfile::SpooledTempFile,
    /// The one that was written last: of a record that makes several rows the first reason is enough.
    last: Option<usize>,
}

impl Rejects {
    pub fn new() -> Rejects {
        Rejects { lines: tempfile::spooled_tempfile(IN_MEMORY), last: None }
    }

    /// Writes a record down. `row` is its bytes, if they could be read; what is not UTF-8 is replaced.
    pub fn add(
        &mut self,
        record: usize,
        (path, line): (&Path, u64),
        reason: &str,
        row: Option<&[u8]>,
    ) -> Result<(), DataError> {
        if self.last.replace(record) == Some(record) {
            return Ok(());
        }
        let row = row.map(String::from_utf8_lossy);
        let object = json!({"file": path, "line": line, "reason": reason, "row": row});
        writeln!(self.lines, "{object}").map_err(DataError::Rejects)
    }

    /// Gives all lines to `to`, in pieces.
    pub fn copy_to(&mut self, to: &mut dyn FnMut(&[u8]) -> Result<(), DataError>) -> Result<(), DataError> {
        self.lines.rewind().map_err(DataError::Rejects)?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match std::io::Read::read(&mut self.lines, &mut piece).map_err(DataError::Rejects)? {
                0 => return Ok(()),
                n => to(&piece[..n])?,
            }
        }
    }
}
