//! Writes out rows as lines if a file holds them in another way. Rows are read in any order, and that needs lines with known
//! starts.
//!
//! The spool has no name and vanishes with the process. Its size is limited by that of the data file: a file that unpacks to more
//! than a real text of its size would is refused.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::limits::{MAX_RECORDS, many_lines};
use super::lines::{LineIndex, LinesOf, ManyLines};

use super::error::SourceError;

/// Maximum number of bytes of lines for each byte of the data file. Gzip can expand one byte to 1032 bytes, but a text that
/// people wrote expands only some tens of times.
const EXPANSION: u64 = 1024;
/// Bytes of lines that are allowed whatever the size of the data file.
const ALLOWED_BYTES: u64 = 1 << 30;
/// Lines on their way to a temporary file.
#[derive(Debug)]
pub(crate) struct Spool<'a> {
    /// The path of the data file.
    pub path: &'a Path,
    folder: PathBuf,
    file: BufWriter<File>,
    index: LineIndex,
    limit: u64,
    /// Bytes that were unpacked but not written.
    passed_over: u64,
    /// Number of the first row.
    first_row: usize,
    /// Number of blank lines in the data file, if the spool has a different number.
    pub blank_lines: Option<usize>,
}

impl<'a> Spool<'a> {
    /// Makes an empty spool for a data file of this many bytes, whose first row has the number `first_row`.
    pub(crate) fn new(path: &'a Path, bytes: u64, lines: LinesOf, first_row: usize) -> Result<Spool<'a>, SourceError> {
        let folder = spool_folder();
        let file = tempfile::tempfile_in(&folder).map(BufWriter::new);
        let file = file.map_err(|source| SourceError::Spool { folder: folder.clone(), source })?;
        let limit = bytes.saturating_mul(EXPANSION).max(ALLOWED_BYTES);
        let index = LineIndex::new((MAX_RECORDS - first_row) as u64, lines);
        Ok(Spool { path, folder, file, index, limit, passed_over: 0, first_row, blank_lines: None })
    }

    /// Adds the next bytes of the lines.
    ///
    /// # Errors
    /// [`SourceError::Spool`] (a full disk), [`SourceError::Expansion`], [`SourceError::ManyLines`], [`SourceError::TooManyRows`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.check(bytes.len() as u64)?;
        self.index.push(bytes).map_err(|many| self.many(many))?;
        let folder = &self.folder;
        self.file.write_all(bytes).map_err(|source| SourceError::Spool { folder: folder.clone(), source })
    }

    /// Counts bytes of bad rows that were made but not written: they count towards the limit, since making them takes as long as
    /// making good rows.
    ///
    /// # Errors
    /// [`SourceError::Expansion`].
    pub(crate) fn pass_over(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.passed_over += bytes;
        self.check(0)
    }

    fn check(&self, more: u64) -> Result<(), SourceError> {
        match self.index.bytes + self.passed_over + more > self.limit {
            true => Err(SourceError::Expansion { path: self.path.to_owned(), limit: self.limit }),
            false => Ok(()),
        }
    }

    fn many(&self, ManyLines(most): ManyLines) -> SourceError {
        many_lines(self.path, most, self.first_row)
    }

    pub(crate) fn finish(mut self) -> Result<(File, LineIndex), SourceError> {
        self.index.finish().map_err(|many| self.many(many))?;
        self.index.blank_lines = self.blank_lines.unwrap_or(self.index.blank_lines);
        let folder = self.folder;
        let file = self.file.into_inner().map_err(|error| SourceError::Spool { folder, source: error.into_error() })?;
        Ok((file, self.index))
    }
}

/// Returns the folder for spools: `TMPDIR` if it is set, otherwise `/var/tmp`, which is on a disk even if `/tmp` is in memory. If
/// there is no `/var/tmp`, returns the system's choice.
pub(crate) fn spool_folder() -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if on_disk.is_dir() => on_disk,
        _ => std::env::temp_dir(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unpacks_to_more_than_text_does_is_refused() {
        let path = Path::new("bomb.jsonl.gz");
        let mut spool = Spool::new(path, 10, LinesOf::Packed(10), 0).unwrap();
        assert_eq!(spool.limit, ALLOWED_BYTES);
        assert_eq!(Spool::new(path, 1 << 30, LinesOf::Packed(1 << 30), 0).unwrap().limit, 1 << 40);
        spool.limit = 10;
        spool.write(b"12345\n").unwrap();
        let error = spool.write(b"12345").unwrap_err();
        assert!(matches!(error, SourceError::Expansion { limit: 10, .. }));
        assert!(error.to_string().starts_with("bomb.jsonl.gz: unpacks to more than 10 bytes"), "{error}");
    }

    #[test]
    fn what_is_not_written_counts_too() {
        let mut spool = Spool::new(Path::new("b.parquet"), 10, LinesOf::Packed(10), 0).unwrap();
        spool.pass_over(ALLOWED_BYTES - 2).unwrap();
        spool.write(b"1\n").unwrap();
        assert!(matches!(spool.write(b"2\n"), Err(SourceError::Expansion { .. })));
        assert!(matches!(spool.pass_over(1), Err(SourceError::Expansion { .. })));
    }

    #[test]
    fn rows_beyond_the_last_number_are_refused_while_they_are_counted() {
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, LinesOf::Packed(10), MAX_RECORDS - 2).unwrap();
        spool.write(b"1\n2\n").unwrap();
        let error = spool.write(b"3\n").unwrap_err();
        assert!(matches!(error, SourceError::TooManyRows { limit: MAX_RECORDS, .. }), "{error}");
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, LinesOf::Packed(10), 0).unwrap();
        spool.index = LineIndex::new(2, LinesOf::Packed(10));
        spool.write(b"1\n2\n3").unwrap();
        let error = spool.finish().unwrap_err();
        assert!(matches!(error, SourceError::ManyLines { limit: 2, .. }), "{error}");
    }
}
