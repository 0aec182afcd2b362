//! Writes the rows that are left out to a file.

use crate::error::CliError;
use crate::report::{self, say};
use align_data::Rejects;
use align_engine::new_file::{NewFile, NewFileError};
use std::path::Path;

/// Writes the rejected rows to the file `path` in one step, and reports how many they are.
///
/// # Errors
/// [`CliError::Runtime`] if the file cannot be written. Its message names the path.
pub(crate) fn save(rejects: &mut Rejects, path: &Path) -> Result<(), CliError> {
    let failed = |error: NewFileError| CliError::file(path, &error.source);
    let mut file = NewFile::create(path).map_err(failed)?;
    rejects.copy_to(|piece| file.write(piece).map_err(failed))?;
    file.finish().map_err(failed)?;
    say!("rejects: {} in {}", report::rows(rejects.count()), path.display());
    Ok(())
}
