//! Rows that do not stand in a file as lines, written out as lines: rows are read in any order, which a compressed file cannot
//! do.
//!
//! The spool has no name and is gone with the process. It is bounded by the size of its file: what unpacks to more than text
//! ever does is refused.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::columns::ColumnMap;
use super::format::{Format, HEAD_BYTES, is_array};
use super::lines::{LineIndex, LinesOf, ManyLines};
use super::reader::{MAX_RECORDS, many_lines};

use super::{DataError, parquet};

/// Most bytes of lines for a byte of the file. The most that gzip makes is 1032; text that people write comes to some tens.
const EXPANSION: u64 = 1024;
/// So much is always allowed.
const ALLOWED_BYTES: u64 = 1 << 30;
/// Bytes unpacked at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Lines on their way to a temporary file.
#[derive(Debug)]
pub(super) struct Spool<'a> {
    /// The data file.
    path: &'a Path,
    folder: PathBuf,
    file: BufWriter<File>,
    index: LineIndex,
    limit: u64,
    /// Bytes that were unpacked and not written.
    passed_over: u64,
    /// Rows of the files before.
    first_row: usize,
}

impl<'a> Spool<'a> {
    /// An empty one, for a data file of so many bytes, whose first row has the number `first_row`.
    fn new(path: &'a Path, bytes: u64, first_row: usize) -> Result<Spool<'a>, DataError> {
        let folder = spool_folder();
        let file =
            tempfile::tempfile_in(&folder).map_err(|source| DataError::Spool { folder: folder.clone(), source })?;
        let limit = bytes.saturating_mul(EXPANSION).max(ALLOWED_BYTES);
        let index = LineIndex::new((MAX_RECORDS - first_row) as u64, LinesOf::Packed(bytes));
        Ok(Spool { path, folder, file: BufWriter::new(file), index, limit, passed_over: 0, first_row })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`DataError::Spool`] (a full disk), [`DataError::Expansion`], [`DataError::ManyLines`], [`DataError::TooManyRows`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.check(bytes.len() as u64)?;
        self.index.push(bytes).map_err(|many| self.many(many))?;
        let folder = &self.folder;
        self.file.write_all(bytes).map_err(|source| DataError::Spool { folder: folder.clone(), source })
    }

    /// Counts bytes of rows that are bad, and so are not written: making them takes as long.
    ///
    /// # Errors
    /// [`DataError::Expansion`].
    pub fn pass_over(&mut self, bytes: u64) -> Result<(), DataError> {
        self.passed_over += bytes;
        self.check(0)
    }

    fn check(&self, more: u64) -> Result<(), DataError> {
        match self.index.bytes + self.passed_over + more > self.limit {
            true => Err(DataError::Expansion { path: self.path.to_owned(), limit: self.limit }),
            false => Ok(()),
        }
    }

    fn many(&self, ManyLines(most): ManyLines) -> DataError {
        many_lines(self.path, most, self.first_row)
    }

    fn finish(mut self) -> Result<(File, LineIndex), DataError> {
        self.index.finish().map_err(|many| self.many(many))?;
        let folder = self.folder;
        let file = self.file.into_inner().map_err(|error| DataError::Spool { folder, source: error.into_error() })?;
        Ok((file, self.index))
    }
}

/// `TMPDIR`, else `/var/tmp`, which is on a disk where `/tmp` may be memory, else the system's choice.
pub(super) fn spool_folder() -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if on_disk.is_dir() => on_disk,
        _ => std::env::temp_dir(),
    }
}

/// Writes the rows of a compressed or Parquet file out as lines; of Parquet, the columns that something reads under `columns`.
///
/// # Errors
/// [`DataError`]: the file is broken, unpacks to something else than JSONL or to far too much, or the disk is full.
pub(super) fn unpack(
    path: &Path,
    file: &File,
    bytes: u64,
    format: Format,
    columns: &ColumnMap,
    first_row: usize,
    mut progress: impl FnMut(u64),
) -> Result<(File, LineIndex), DataError> {
    let mut spool = Spool::new(path, bytes, first_row)?;
    let mut counted = Counted { file, read: 0 };
    let broken = |source: std::io::Error| DataError::Unpack {
        path: path.to_owned(),
        format: format.name(),
        message: source.to_string(),
    };
    match format {
        Format::Parquet => parquet::unpack(path, file, bytes, columns, &mut spool, &mut progress)?,
        Format::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(PIECE_BYTES, &mut counted));
            copy(path, format, decoder, |decoder| decoder.get_ref().get_ref().read, &mut spool, &broken, progress)?;
        }
        Format::Zstd => {
            let buffered = BufReader::with_capacity(PIECE_BYTES, &mut counted);
            let decoder = zstd::stream::read::Decoder::with_buffer(buffered).map_err(broken)?;
            copy(path, format, decoder, |decoder| decoder.get_ref().get_ref().read, &mut spool, &broken, progress)?;
        }
        Format::Jsonl => unreachable!("lines are read where they stand"),
    }
    spool.finish()
}

/// All that a decoder gives, into the spool.
fn copy<R: Read>(
    path: &Path,
    outer: Format,
    mut decoder: R,
    read: impl Fn(&R) -> u64,
    spool: &mut Spool<'_>,
    broken: &dyn Fn(std::io::Error) -> DataError,
    mut progress: impl FnMut(u64),
) -> Result<(), DataError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut is_first = true;
    loop {
        let mut filled = 0;
        while filled < piece.len() {
            match decoder.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        if is_first {
            let found = match Format::of(&piece[..filled.min(HEAD_BYTES)]) {
                Ok(Format::Jsonl) => None,
                Ok(other) => Some(other.name()),
                Err(other) => Some(other),
            };
            if let Some(found) = found {
                return Err(DataError::Nested { path: path.to_owned(), outer: outer.name(), found });
            }
            if is_array(&piece[..filled]) {
                return Err(DataError::Array { path: path.to_owned() });
            }
            is_first = false;
        }
        spool.write(&piece[..filled])?;
        progress(read(&decoder));
    }
}

/// Counts the bytes that were read of a file.
struct Counted<'a> {
    file: &'a File,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unpacks_to_more_than_text_does_is_refused() {
        let path = Path::new("bomb.jsonl.gz");
        let mut spool = Spool::new(path, 10, 0).unwrap();
        assert_eq!(spool.limit, ALLOWED_BYTES);
        assert_eq!(Spool::new(path, 1 << 30, 0).unwrap().limit, 1 << 40);
        spool.limit = 10;
        spool.write(b"12345\n").unwrap();
        let error = spool.write(b"12345").unwrap_err();
        assert!(matches!(error, DataError::Expansion { limit: 10, .. }));
        assert!(error.to_string().starts_with("bomb.jsonl.gz: unpacks to more than 10 bytes"), "{error}");
    }

    #[test]
    fn what_is_not_written_counts_too() {
        let mut spool = Spool::new(Path::new("b.parquet"), 10, 0).unwrap();
        spool.pass_over(ALLOWED_BYTES - 2).unwrap();
        spool.write(b"1\n").unwrap();
        assert!(matches!(spool.write(b"2\n"), Err(DataError::Expansion { .. })));
        assert!(matches!(spool.pass_over(1), Err(DataError::Expansion { .. })));
    }

    #[test]
    fn rows_beyond_the_last_number_are_refused_while_they_are_counted() {
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, MAX_RECORDS - 2).unwrap();
        spool.write(b"1\n2\n").unwrap();
        let error = spool.write(b"3\n").unwrap_err();
        assert!(matches!(error, DataError::TooManyRows { limit: MAX_RECORDS, .. }), "{error}");
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, 0).unwrap();
        spool.index = LineIndex::new(2, LinesOf::Packed(10));
        spool.write(b"1\n2\n3").unwrap();
        let error = spool.finish().unwrap_err();
        assert!(matches!(error, DataError::ManyLines { limit: 2, .. }), "{error}");
    }
}
