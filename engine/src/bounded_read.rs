//! Reads files that somebody else wrote, up to a size limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a regular file of at most `limit` bytes. Refuses a pipe or a device before opening it, since it could block or never
/// end.
///
/// # Errors
/// The system's error, or an error that says what is wrong. Neither names the path.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.is_file() {
        true => read_any(path, limit),
        false => Err(io::Error::other("is not a regular file")),
    }
}

/// Reads a file like [`read_regular`], but the file may also be a pipe, since the user named it.
///
/// # Errors
/// The errors of [`read_regular`], except that a pipe is accepted.
pub fn read_any(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("has more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_or_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("four");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_regular(&path, 4).unwrap(), b"four");
        assert!(read_regular(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert!(read_regular(folder.path(), 4).unwrap_err().to_string().contains("regular"));
        assert_eq!(read_regular(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_that_never_ends_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("zeros");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert!(read_regular(&link, 1000).is_err());
        assert_eq!(read_any(&link, 1000).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
