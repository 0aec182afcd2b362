//! The rows that are left out, on their way to a file.

use crate::error::CliError;
use crate::report::{self, say};
use align_engine::new_file::{NewFile, NewFileError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Bytes that are kept in memory before a temporary file takes them.
const IN_MEMORY: usize = 1 << 20;

/// Lines of rejected rows, of one data set after another.
pub struct Rejects {
    lines: tempfile::SpooledTempFile,
    count: u64,
}

impl Rejects {
    pub fn new() -> Rejects {
        Rejects { lines: tempfile::spooled_tempfile(IN_MEMORY), count: 0 }
    }

    /// Writes them to a file, which is whole or not there, and says so.
    ///
    /// # Errors
    /// [`CliError::Runtime`] with the path.
    pub fn save(mut self, path: &Path) -> Result<(), CliError> {
        let failed = |error: NewFileError| CliError::file(path, &error.source);
        let mut file = NewFile::create(path).map_err(failed)?;
        self.lines.rewind()?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match self.lines.read(&mut piece)? {
                0 => break,
                n => file.write(&piece[..n]).map_err(failed)?,
            }
        }
        file.finish().map_err(failed)?;
        say!("rejects: {} in {}", report::rows(self.count), path.display());
        Ok(())
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
