//! Files that appear under their names complete, or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that gets its name when [`NewFile::finish`] has put every byte on the disk. Until then, an older file under that name
/// stays unchanged, whatever fails.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    /// The temporary file. It is in the same directory as `path`, so that renaming it is atomic. It is removed on drop.
    file: NamedTempFile,
}

/// An action on a new file failed.
#[derive(Debug)]
pub struct NewFileError {
    /// The action, in words that follow "cannot", e.g. `write it`.
    pub action: &'static str,
    /// The system's error.
    pub source: io::Error,
}

impl NewFile {
    /// Creates a temporary file in the directory of `path`. [`NewFile::finish`] renames it to `path`.
    ///
    /// # Errors
    /// [`NewFileError`] if no file can be made in that directory.
    pub fn create(path: &Path) -> Result<NewFile, NewFileError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tmp-");
        #[cfg(unix)]
        {
            // The file gets the same mode as with `File::create`: the umask decides who may read it.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder_of(path)).map_err(failed("create a file beside it"))?;
        Ok(NewFile { path: path.to_owned(), file })
    }

    /// Writes the file `path` with the content `bytes`.
    ///
    /// # Errors
    /// [`NewFileError`].
    pub fn whole(path: &Path, bytes: &[u8]) -> Result<(), NewFileError> {
        let mut file = NewFile::create(path)?;
        file.write(bytes)?;
        file.finish()
    }

    /// Adds `bytes` at the end of the file.
    ///
    /// # Errors
    /// [`NewFileError`], for example if the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), NewFileError> {
        self.file.write_all(bytes).map_err(failed("write it"))
    }

    /// Flushes the file to the disk and renames it to its final name.
    ///
    /// # Errors
    /// [`NewFileError`].
    pub fn finish(self) -> Result<(), NewFileError> {
        self.finish_open().map(|_| ())
    }

    /// Does the same as [`NewFile::finish`], and returns the open file. Use it if another process could replace the file under
    /// its name before it is opened again.
    ///
    /// # Errors
    /// [`NewFileError`].
    pub fn finish_open(self) -> Result<File, NewFileError> {
        let NewFile { path, file } = self;
        file.as_file().sync_all().map_err(failed("write it to the disk"))?;
        let file = file.persist(&path).map_err(|error| failed("rename the new file to it")(error.error))?;
        sync(folder_of(&path)).map_err(failed("write its directory to the disk"))?;
        Ok(file)
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> NewFileError {
    move |source| NewFileError { action, source }
}

/// Returns the folder that contains `path`: `.` if `path` is a bare file name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Flushes a file, or a folder's list of files, to the disk. A rename reaches the disk when its folder is flushed.
///
/// # Errors
/// The errors of the system.
#[cfg(unix)]
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Does nothing: this system cannot open a folder as a file to flush it.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}
