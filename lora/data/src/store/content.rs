//! Identifies the content of a file: by a hash of all of it or, for a large file, by samples, times and inode.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::stamp::Stamp;
use crate::pieces::fill;

/// A file of at most this many bytes is hashed whole, and nothing else about it counts: a copy of it counts as the same file. For
/// a larger file, the hash covers samples, the length, the times and the inode: every write changes the time of the last change
/// (ctime). So a copy of a large file counts as another file. So does a large file that was linked or whose permissions were
/// changed. Its tokens are then made again.
const HASHED_WHOLE: u64 = 256 << 20;

/// Number of samples of a large file, spread evenly from its start. One more sample is at its very end.
const SAMPLES: u64 = 64;

const SAMPLE_BYTES: u64 = 1 << 20;

/// Returns how many bytes of a file with `bytes` bytes are hashed.
pub fn hashed_bytes(bytes: u64) -> u64 {
    if bytes <= HASHED_WHOLE { bytes } else { (SAMPLES + 1) * SAMPLE_BYTES }
}

/// Returns a string that identifies the content of a file, and the file's stamp. `progress` receives the number of bytes of each
/// step.
///
/// # Errors
/// Those of the system for a file that cannot be read.
pub fn content(path: &Path, mut progress: impl FnMut(u64)) -> std::io::Result<(String, Stamp)> {
    let kind = path.metadata()?;
    if !kind.is_file() {
        // opening a pipe to which nobody writes would wait for ever; the reader of the rows refuses it
        return Ok(("not a file".to_owned(), Stamp::of(&kind)));
    }
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let stamp = Stamp::of(&meta);
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; SAMPLE_BYTES as usize];
    if meta.len() <= HASHED_WHOLE {
        while fill(&mut file, &mut piece)? > 0 {
            hasher.update(&piece);
            progress(piece.len() as u64);
        }
        return Ok((hasher.finalize().to_hex().to_string(), stamp));
    }
    let last = meta.len() - SAMPLE_BYTES;
    for start in (0..SAMPLES).map(|i| last / (SAMPLES - 1) * i).chain([last]) {
        file.read_exact_at(&mut piece, start)?;
        hasher.update(&piece);
        progress(SAMPLE_BYTES);
    }
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
    let known =
        format!("{} bytes, inode {}, times {times:?}, samples {}", meta.len(), meta.ino(), hasher.finalize().to_hex());
    Ok((known, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &Path) -> String {
        content(path, |_| {}).unwrap().0
    }

    #[test]
    fn a_large_file_is_known_by_its_samples_its_times_and_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(HASHED_WHOLE + 5_000_000).unwrap(); // sparse: takes no space on the disk
        let first = known(&path);
        assert_eq!(known(&path), first);
        assert!(first.contains("273435456 bytes"), "{first}");
        file.write_all_at(b"x", HASHED_WHOLE + 4_999_999).unwrap();
        let last_byte = known(&path);
        assert_ne!(last_byte, first);
        // a write between the samples that keeps the length and the time of the last write
        let time = path.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"x", 3_000_000).unwrap();
        file.set_modified(time).unwrap();
        assert_eq!(path.metadata().unwrap().modified().unwrap(), time);
        let between = known(&path);
        assert_ne!(between, last_byte);
        let mut told = 0;
        content(&path, |bytes| told += bytes).unwrap();
        assert_eq!(told, hashed_bytes(path.metadata().unwrap().len()));
    }
}
