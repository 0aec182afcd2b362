//! Lists a folder that somebody else filled.

use std::io;
use std::path::Path;

/// Whether this path exists. `false` only if the system does not find it, as for a broken link.
pub(crate) fn exists(path: &Path) -> bool {
    !matches!(std::fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Returns the names of the entries of a folder, sorted, without those that are not UTF-8. Empty if the folder cannot be read.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
