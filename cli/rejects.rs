//! The rows that are left out, on their way to the file that a user asked for.

use crate::error::CliError;
use crate::report::{self, say};
use align_engine::new_file::{NewFile, NewFileError};
use std::path::Path;

/// Lines of rejected rows, of one data set after another.
pub(crate) struct Rejects {
    pub lines: align_data::Rejects,
}

impl Rejects {
    pub(crate) fn new() -> Rejects {
        Rejects { lines: align_data::Rejects::new() }
    }

    /// Writes them to a file, which is whole or not there, and says so.
    ///
    /// # Errors
    /// [`CliError::Runtime`] with the path.
    pub(crate) fn save(&mut self, path: &Path) -> Result<(), CliError> {
        let failed = |error: NewFileError| CliError::file(path, &error.source);
        let mut file = NewFile::create(path).map_err(failed)?;
        self.lines.copy_to(|piece| file.write(piece).map_err(failed))?;
        file.finish().map_err(failed)?;
        say!("rejects: {} in {}", report::rows(self.lines.count()), path.display());
        Ok(())
    }
}
