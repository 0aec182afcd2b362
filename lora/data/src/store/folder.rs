//! Keeps folders of cache files within a limit: the files that were not used for the longest time are removed first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files that a crash left behind are removed after this time.
const ABANDONED: Duration = Duration::from_hours(24);

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// When it was used last.
    pub used: SystemTime,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its path.
    pub path: PathBuf,
}

/// Files that were removed, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of files.
    pub files: u64,
    /// Total size of the files in bytes.
    pub bytes: u64,
}

/// Lists the files of a folder whose names end with `.ending`.
///
/// # Errors
/// Those of the system for a folder that cannot be listed.
pub fn files(folder: &Path, ending: &str) -> io::Result<Vec<KeptFile>> {
    let has_ending = |path: &PathBuf| path.extension().is_some_and(|found| found == ending);
    Ok(paths(folder)?.filter(has_ending).filter_map(kept_file).collect())
}

/// Sets the time when an open file was last used to now. If that fails, as for another user's file, the file is only removed
/// earlier.
pub fn mark_used(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Removes from a folder the temporary files that crashes left behind. Then removes files that end with `.ending`, those not used
/// for the longest time first, until the remaining files have at most `limit` bytes in all. `own` stays, and so does a file that
/// a process has locked. Best effort: a file that cannot be removed stays.
pub fn keep_within(folder: &Path, ending: &str, limit: u64, own: &Path) -> Removed {
    for left in paths(folder).into_iter().flatten().filter_map(kept_file) {
        let is_temporary = left.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"));
        if is_temporary && SystemTime::now().duration_since(left.used).unwrap_or_default() > ABANDONED {
            let _ = fs::remove_file(&left.path);
        }
    }
    let mut found = files(folder, ending).unwrap_or_default();
    let mut all: u64 = found.iter().map(|file| file.bytes).sum();
    found.sort_by(|a, b| (a.used, a.bytes, &a.path).cmp(&(b.used, b.bytes, &b.path)));
    let mut removed = Removed::default();
    for old in found.into_iter().filter(|file| file.path != own) {
        if all <= limit {
            break;
        }
        let is_free = File::open(&old.path).is_ok_and(|file| file.try_lock().is_ok());
        if is_free && fs::remove_file(&old.path).is_ok() {
            all -= old.bytes;
            removed.files += 1;
            removed.bytes += old.bytes;
        }
    }
    removed
}

fn paths(folder: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())))
}

/// Returns the size and the time of a file. `None` if it is not a regular file.
fn kept_file(path: PathBuf) -> Option<KeptFile> {
    let metadata = fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?;
    Some(KeptFile { used: metadata.modified().ok()?, bytes: metadata.len(), path })
}
