//! Writes the rows that are left out, as they are in the data, so that a user can look at them, correct them and use them again.

use std::io::{Read, Seek, Write};

use serde_json::{Value, json};

use crate::source::spool::spool_folder;

/// Maximum number of bytes that are kept in memory. If there are more, all of them go to a temporary file.
const IN_MEMORY: usize = 1 << 20;

/// JSON lines of rejected records on their way to a file: `{"file", "line", "reason", "row"}`. Once they exceed a mebibyte, they
/// move to a temporary file in the folder for unpacked data.
#[derive(Debug)]
pub struct Rejects {
    lines: tempfile::SpooledTempFile,
    count: u64,
}

impl Default for Rejects {
    /// Makes an empty list.
    fn default() -> Rejects {
        Rejects { lines: tempfile::spooled_tempfile_in(IN_MEMORY, spool_folder()), count: 0 }
    }
}

impl Rejects {
    /// Returns the number of lines.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Passes all lines to `to`, in pieces.
    ///
    /// # Errors
    /// The errors of the temporary file and of `to`.
    pub fn copy_to<E: From<std::io::Error>>(&mut self, mut to: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.lines.rewind()?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match self.lines.read(&mut piece)? {
                0 => return Ok(()),
                n => to(&piece[..n])?,
            }
        }
    }
}

impl Write for Rejects {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.lines.write(bytes)?;
        self.count += bytes[..n].iter().filter(|&&byte| byte == b'\n').count() as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.lines.flush()
    }
}

/// Returns the line of a record that is left out. `row` is its bytes, if they could be read. Bytes that are not UTF-8 are
/// replaced.
pub(crate) fn line(file: Value, line: u64, reason: &str, row: Option<&[u8]>) -> String {
    let row = row.map(String::from_utf8_lossy);
    format!("{}\n", json!({"file": file, "line": line, "reason": reason, "row": row}))
}

/// Returns a line with its `file` replaced by what `name` makes of it. `None` if [`line`] did not make the line, or if `name`
/// returns `None`.
pub(crate) fn with_file(line: &[u8], name: impl FnOnce(&Value) -> Option<Value>) -> Option<String> {
    let mut reject: Value = serde_json::from_slice(line).ok()?;
    let file = reject.get_mut("file")?;
    *file = name(file)?;
    Some(format!("{reject}\n"))
}
