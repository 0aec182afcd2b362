//! Writes out rows as lines if a file does not hold them so. Rows are read in any order, and that needs lines with known starts.
//!
//! The spool has no name and is gone with the process. It is bounded by the size of its file: what unpacks to more than text
//! ever does is refused.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::csv_rows::{self, CsvStop};
use super::format::Format;
use super::json_array::{ArrayFault, ArrayLines};
use super::layout::TextLayout;
use super::lines::{LineIndex, LinesOf, ManyLines};
use super::reader::{MAX_RECORDS, many_lines};
use crate::record::columns::ColumnMap;

use super::parquet;
use crate::error::DataError;

/// Most bytes of lines for a byte of the file. The most that gzip makes is 1032; text that people write comes to some tens.
const EXPANSION: u64 = 1024;
/// So much is always allowed.
const ALLOWED_BYTES: u64 = 1 << 30;
/// Bytes unpacked at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Lines on their way to a temporary file.
#[derive(Debug)]
pub(crate) struct Spool<'a> {
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
    /// Blank lines of the data file, if the spool has others.
    blank_lines: Option<usize>,
}

impl<'a> Spool<'a> {
    /// An empty one, for a data file of so many bytes, whose first row has the number `first_row`.
    fn new(path: &'a Path, bytes: u64, lines: LinesOf, first_row: usize) -> Result<Spool<'a>, DataError> {
        let folder = spool_folder();
        let file =
            tempfile::tempfile_in(&folder).map_err(|source| DataError::Spool { folder: folder.clone(), source })?;
        let limit = bytes.saturating_mul(EXPANSION).max(ALLOWED_BYTES);
        let index = LineIndex::new((MAX_RECORDS - first_row) as u64, lines);
        Ok(Spool {
            path,
            folder,
            file: BufWriter::new(file),
            index,
            limit,
            passed_over: 0,
            first_row,
            blank_lines: None,
        })
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
        self.index.blank_lines = self.blank_lines.unwrap_or(self.index.blank_lines);
        let folder = self.folder;
        let file = self.file.into_inner().map_err(|error| DataError::Spool { folder, source: error.into_error() })?;
        Ok((file, self.index))
    }
}

/// `TMPDIR`, else `/var/tmp`, which is on a disk where `/tmp` may be memory, else the system's choice.
pub(crate) fn spool_folder() -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if on_disk.is_dir() => on_disk,
        _ => std::env::temp_dir(),
    }
}

/// Writes out the rows of a file that is not plain JSONL as lines. Of Parquet and CSV, only the columns that something reads under
/// `columns` are written.
///
/// # Errors
/// [`DataError`] if the file is broken, if it unpacks to something other than rows or to far too much, or if the disk is full.
pub(crate) fn unpack(
    path: &Path,
    file: &File,
    bytes: u64,
    format: Format,
    columns: &ColumnMap,
    first_row: usize,
    mut progress: impl FnMut(u64),
) -> Result<(File, LineIndex), DataError> {
    let lines = if format == Format::Text { LinesOf::Text(bytes) } else { LinesOf::Packed(bytes) };
    let mut spool = Spool::new(path, bytes, lines, first_row)?;
    if format == Format::Parquet {
        parquet::unpack(path, file, bytes, columns, &mut spool, &mut progress)?;
        return spool.finish();
    }
    let broken = |source: std::io::Error| match format {
        Format::Text => DataError::Io { path: path.to_owned(), source },
        _ => DataError::Unpack { path: path.to_owned(), format: format.name(), message: source.to_string() },
    };
    let read = Cell::new(0);
    let packed = BufReader::with_capacity(PIECE_BYTES, Counted { file, read: &read });
    let text: Box<dyn Read> = match format {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed).map_err(broken)?),
        Format::Text | Format::Parquet => Box::new(packed),
    };
    unpack_text(text, format, columns, &mut spool, &broken, &mut || progress(read.get()))?;
    spool.finish()
}

/// Writes all rows of a text into the spool.
fn unpack_text(
    mut text: Box<dyn Read + '_>,
    outer: Format,
    columns: &ColumnMap,
    spool: &mut Spool<'_>,
    broken: &dyn Fn(std::io::Error) -> DataError,
    progress: &mut dyn FnMut(),
) -> Result<(), DataError> {
    let path = spool.path;
    let mut piece = vec![0; PIECE_BYTES];
    let first = fill(&mut text, &mut piece).map_err(broken)?;
    let found = match Format::of(&piece[..first]) {
        Ok(Format::Text) => None,
        Ok(other) => Some(other.name()),
        Err(other) => Some(other),
    };
    if let Some(found) = found {
        return Err(DataError::Nested { path: path.to_owned(), outer: outer.name(), found });
    }
    let is_whole = first < piece.len();
    match TextLayout::of(path, &piece[..first], is_whole, columns)? {
        TextLayout::Lines => pieces(text, piece, first, broken, |piece| {
            spool.write(piece)?;
            progress();
            Ok(())
        }),
        TextLayout::Array => {
            let fault = |ArrayFault { line, message }| DataError::Array { path: path.to_owned(), line, message };
            let (mut array, mut lines) = (ArrayLines::new(), Vec::new());
            pieces(text, piece, first, broken, |piece| {
                lines.clear();
                array.push(piece, &mut lines).map_err(fault)?;
                spool.write(&lines)?;
                progress();
                Ok(())
            })?;
            array.finish().map_err(fault)?;
            spool.blank_lines = Some(0);
            Ok(())
        }
        TextLayout::Csv { delimiter } => {
            let whole = (&piece[..first]).chain(text);
            let mut rows = 0u64;
            let blank_lines = csv_rows::rows(whole, delimiter, columns, |line| {
                rows += 1;
                if rows.is_multiple_of(1024) {
                    progress();
                }
                spool.write(line)
            });
            spool.blank_lines = Some(blank_lines.map_err(|stop| match stop {
                CsvStop::Read(error) => broken(error),
                CsvStop::Fault { line, message } => DataError::Csv { path: path.to_owned(), line, message },
                CsvStop::Out(error) => error,
            })?);
            Ok(())
        }
    }
}

/// Passes a text to `take` in pieces. The first is what `piece` already holds.
fn pieces(
    mut text: Box<dyn Read + '_>,
    mut piece: Vec<u8>,
    first: usize,
    broken: &dyn Fn(std::io::Error) -> DataError,
    mut take: impl FnMut(&[u8]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut filled = first;
    while filled > 0 {
        take(&piece[..filled])?;
        filled = fill(&mut text, &mut piece).map_err(broken)?;
    }
    Ok(())
}

/// Fills a piece, or as much of it as the text has.
fn fill(text: &mut dyn Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match text.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Counts the bytes that were read of a file.
struct Counted<'a> {
    file: &'a File,
    read: &'a Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
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
        assert!(matches!(error, DataError::Expansion { limit: 10, .. }));
        assert!(error.to_string().starts_with("bomb.jsonl.gz: unpacks to more than 10 bytes"), "{error}");
    }

    #[test]
    fn what_is_not_written_counts_too() {
        let mut spool = Spool::new(Path::new("b.parquet"), 10, LinesOf::Packed(10), 0).unwrap();
        spool.pass_over(ALLOWED_BYTES - 2).unwrap();
        spool.write(b"1\n").unwrap();
        assert!(matches!(spool.write(b"2\n"), Err(DataError::Expansion { .. })));
        assert!(matches!(spool.pass_over(1), Err(DataError::Expansion { .. })));
    }

    #[test]
    fn rows_beyond_the_last_number_are_refused_while_they_are_counted() {
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, LinesOf::Packed(10), MAX_RECORDS - 2).unwrap();
        spool.write(b"1\n2\n").unwrap();
        let error = spool.write(b"3\n").unwrap_err();
        assert!(matches!(error, DataError::TooManyRows { limit: MAX_RECORDS, .. }), "{error}");
        let mut spool = Spool::new(Path::new("b.jsonl.gz"), 10, LinesOf::Packed(10), 0).unwrap();
        spool.index = LineIndex::new(2, LinesOf::Packed(10));
        spool.write(b"1\n2\n3").unwrap();
        let error = spool.finish().unwrap_err();
        assert!(matches!(error, DataError::ManyLines { limit: 2, .. }), "{error}");
    }
}
