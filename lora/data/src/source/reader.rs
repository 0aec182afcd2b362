//! Reads data files by row. One walk finds where rows start. Then any row can be read in any order, as the bytes of a JSON object.
//!
//! JSONL is read in place. Compressed files, JSON arrays, CSV and Parquet are first written out with one row on each line
//! (`unpack`). Rows from memory are lines in memory. Files are read with positioned reads and not mapped: a data file that
//! shrinks while it is mapped would end the process (SIGBUS). A row is read once in an epoch, so a mapping saves nothing.

use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::bad_line::BadLine;
use super::column_map::ColumnMap;
use super::error::SourceError;
use super::files::folder;
use super::format::Format;
use super::layout::{LOOK_BYTES, TextLayout};
use super::limits::{MAX_RECORDS, MAX_ROW_BYTES, many_lines};
use super::lines::{LineIndex, LinesOf, ManyLines};
use super::memory::MemoryRows;
use super::unpack;
use crate::pieces::{PIECE_BYTES, fill};
use crate::progress::{DataObserver, DataProgress, Stage, Unobserved};
use crate::store::stamp::Stamp;

/// Number of files that a process may have open besides data files: a model's shards, logs, caches, libraries.
const OTHER_FILES: u64 = 256;

/// The rows of several data files, numbered over all of them.
#[derive(Debug)]
pub(crate) struct Rows {
    files: Vec<DataFile>,
    rows: usize,
}

/// One data file, with the starts of its rows.
#[derive(Debug)]
struct DataFile {
    path: PathBuf,
    text: Text,
    /// The stamp of the user's file. `None` for rows from memory.
    stamp: Option<Stamp>,
    lines: LineIndex,
    /// Number of this file's first row over all files.
    first_row: usize,
}

/// Where the lines of a file are.
#[derive(Debug)]
enum Text {
    /// In the user's file.
    InPlace(File),
    /// In the spool, if the user's file is not JSONL itself. The user's file is then closed.
    Spooled(File),
    /// In memory. There is no file.
    Memory(Vec<u8>),
}

impl Text {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        match self {
            Text::InPlace(file) | Text::Spooled(file) => file.read_at(buffer, offset),
            Text::Memory(lines) => bytes_from(lines, offset).read(buffer),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Text::InPlace(file) | Text::Spooled(file) => file.read_exact_at(buffer, offset),
            Text::Memory(lines) => bytes_from(lines, offset).read_exact(buffer),
        }
    }
}

/// Returns the bytes of `lines` from an offset on.
fn bytes_from(lines: &[u8], offset: u64) -> &[u8] {
    lines.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default()
}

impl Rows {
    /// Finds the rows in memory.
    ///
    /// # Errors
    /// [`SourceError::Empty`]; [`SourceError::ManyLines`] and [`SourceError::TooManyRows`] as for a file.
    pub(crate) fn in_memory(memory: MemoryRows) -> Result<Rows, SourceError> {
        let MemoryRows { name: path, lines: text } = memory;
        let mut lines = LineIndex::new(MAX_RECORDS as u64, LinesOf::Text(text.len() as u64));
        let found = lines.push(&text).and_then(|()| lines.finish());
        found.map_err(|ManyLines(most)| many_lines(&path, most, 0))?;
        let rows = lines.starts.len();
        if rows == 0 {
            return Err(SourceError::Empty { paths: vec![path] });
        }
        let file = DataFile { path, text: Text::Memory(text), stamp: None, lines, first_row: 0 };
        Ok(Rows { files: vec![file], rows })
    }

    /// Opens the files and finds their rows. Blank lines are not rows. A byte-order mark and CRLF are accepted. In Parquet and
    /// CSV, only the columns that something reads under `columns` are read; the others are null.
    ///
    /// # Errors
    /// [`SourceError`]: a path that is not a file, a format that is broken or not read, or no row in any file.
    pub(crate) fn open(paths: &[PathBuf], columns: &ColumnMap) -> Result<Rows, SourceError> {
        Rows::open_observed(paths, columns, &mut Unobserved)
    }

    /// Like [`Rows::open`], but reports its progress in [`Stage::Reading`]. If some files have no row, notes the first of these
    /// files and the number of the others.
    ///
    /// # Errors
    /// As [`Rows::open`].
    pub(crate) fn open_observed(
        paths: &[PathBuf],
        columns: &ColumnMap,
        observer: &mut dyn DataObserver,
    ) -> Result<Rows, SourceError> {
        Rows::open_first(usize::MAX, paths, columns, observer)
    }

    /// Like [`Rows::open_observed`], but opens only as many files as hold the first `limit` rows.
    ///
    /// # Errors
    /// As [`Rows::open`].
    pub(crate) fn open_first(
        limit: usize,
        paths: &[PathBuf],
        columns: &ColumnMap,
        observer: &mut dyn DataObserver,
    ) -> Result<Rows, SourceError> {
        let open_files = allow_open_files(paths.len());
        let size = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
        let total = paths.iter().map(size).sum();
        let mut files = Vec::with_capacity(paths.len());
        let (mut rows, mut before) = (0, 0);
        for path in paths {
            if rows >= limit {
                break;
            }
            let progress = |read| observer.progress(DataProgress { stage: Stage::Reading, done: before + read, total });
            let file = DataFile::open(path, columns, rows, progress).map_err(|error| match error {
                SourceError::Io { source, .. } | SourceError::Spool { source, .. }
                    if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) =>
                {
                    SourceError::TooManyFiles { files: paths.len(), limit: open_files }
                }
                other => other,
            })?;
            rows += file.lines.starts.len();
            before += size(path);
            files.push(file);
        }
        if rows == 0 {
            return Err(SourceError::Empty { paths: paths.to_vec() });
        }
        let mut empty = files.iter().filter(|file: &&DataFile| file.lines.starts.is_empty());
        if let Some(first) = empty.next() {
            let more = match empty.count() {
                0 => String::new(),
                more => format!(", and in {more} more of {} files", files.len()),
            };
            observer.note(format!("no row in {}{more}", first.path.display()));
        }
        Ok(Rows { files, rows })
    }

    /// Number of rows over all files; at least one.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Returns the number of rows of each file that has any.
    pub(crate) fn files(&self) -> impl Iterator<Item = usize> {
        self.files.iter().map(|file| file.lines.starts.len()).filter(|rows| *rows > 0)
    }

    /// Number of files that were opened.
    pub(crate) fn opened(&self) -> usize {
        self.files.len()
    }

    /// Number of blank lines that were skipped.
    pub(crate) fn blank_lines(&self) -> usize {
        self.files.iter().map(|f| f.lines.blank_lines).sum()
    }

    /// Returns how many bytes are read for a row: up to the start of the next row.
    pub(crate) fn bytes(&self, row: usize) -> u64 {
        let (file, i) = self.locate(row);
        file.range(i).1
    }

    /// Reads the bytes of a row, without its line end. The inner error is for a row that is too long or could not become JSON.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the file has become shorter, [`SourceError::Io`] if it cannot be read. Panics if `row` is not
    /// below [`Rows::len`].
    pub(crate) fn read(&self, row: usize) -> Result<Result<Vec<u8>, BadLine>, SourceError> {
        let (file, i) = self.locate(row);
        // this reads up to the start of the next row: only blank lines come between the line end and that start
        let (start, bytes) = file.range(i);
        if bytes > MAX_ROW_BYTES {
            return Ok(Err(BadLine::TooLong { bytes, limit: MAX_ROW_BYTES }));
        }
        let mut line = vec![0; usize::try_from(bytes).expect("checked against MAX_ROW_BYTES")];
        file.text.read_exact_at(&mut line, start).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => SourceError::Changed { path: file.path.clone() },
            _ => SourceError::Io { path: file.path.clone(), source },
        })?;
        line.truncate(line.trim_ascii_end().len());
        match file.text {
            Text::Spooled(_) => Ok(BadLine::read(&line).map_or(Ok(line), Err)),
            Text::InPlace(_) | Text::Memory(_) => Ok(Ok(line)),
        }
    }

    /// Checks that no file has changed since it was opened. A file whose rows were written to the spool may be gone.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if a path now names another file, or if the size or the time of modification of a file differs.
    /// [`SourceError::Io`] if the system cannot tell.
    pub(crate) fn check_unchanged(&self) -> Result<(), SourceError> {
        for file in &self.files {
            let path = || file.path.clone();
            let now = match &file.text {
                Text::InPlace(text) => {
                    Some(text.metadata().map_err(|source| SourceError::Io { path: path(), source })?)
                }
                Text::Spooled(_) => file.path.metadata().ok(),
                Text::Memory(_) => None,
            };
            if let (Some(now), Some(stamp)) = (now, &file.stamp)
                && !Stamp::of(&now).is_same_file(stamp)
            {
                return Err(SourceError::Changed { path: path() });
            }
        }
        Ok(())
    }

    /// Returns the file and the 1-based line of a row; in Parquet, the 1-based row. If several rows of a JSON array begin on one
    /// line, each after the first gets the next line number. The line is 0 if the file can no longer be read. This counts all
    /// lines before the row, so use it for messages only.
    pub(crate) fn place(&self, row: usize) -> (PathBuf, u64) {
        self.place_after(&mut PlaceCursor::default(), row)
    }

    /// Like [`Rows::place`], for rows in ascending order: counts only the lines since the row of the last call.
    pub(crate) fn place_after(&self, cursor: &mut PlaceCursor, row: usize) -> (PathBuf, u64) {
        let (file, i) = self.locate(row);
        let start = file.lines.starts[i];
        if cursor.first_row != file.first_row || cursor.start > start {
            *cursor = PlaceCursor { first_row: file.first_row, start: 0, lines: 0 };
        }
        let Some(lines) = file.newlines(cursor.start..start) else { return (file.path.clone(), 0) };
        cursor.lines += lines;
        cursor.start = start;
        (file.path.clone(), cursor.lines + 1)
    }

    fn locate(&self, row: usize) -> (&DataFile, usize) {
        assert!(row < self.rows, "row {row} of {}: the caller counts rows with len()", self.rows);
        let after = self.files.partition_point(|f| f.first_row <= row);
        let file = &self.files[after - 1];
        (file, row - file.first_row)
    }
}

impl DataFile {
    /// Opens a file and finds its rows. `progress` receives how many bytes of the file have been read.
    fn open(
        path: &Path,
        columns: &ColumnMap,
        first_row: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<DataFile, SourceError> {
        let io = |source| SourceError::Io { path: path.to_owned(), source };
        // checked before opening: opening a pipe to which nobody writes would wait for ever
        let kind = std::fs::metadata(path).map_err(io)?;
        if kind.is_dir() {
            return Err(folder(path));
        }
        if !kind.is_file() {
            return Err(SourceError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let stamp = Some(Stamp::of(&meta));

        let mut head = Vec::new();
        (&file).take(LOOK_BYTES as u64).read_to_end(&mut head).and_then(|_| (&file).rewind()).map_err(io)?;
        let format = Format::of(&head).map_err(|found| SourceError::Format { path: path.to_owned(), found })?;
        let is_lines = format == Format::Text
            && TextLayout::of(path, &head, head.len() as u64 >= meta.len(), columns)? == TextLayout::Lines;
        let (text, lines) = if is_lines {
            let mut lines = LineIndex::new((MAX_RECORDS - first_row) as u64, LinesOf::Text(meta.len()));
            let many = |ManyLines(most)| many_lines(path, most, first_row);
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            while fill(&mut &file, &mut piece).map_err(io)? > 0 {
                lines.push(&piece).map_err(many)?;
                progress(lines.bytes);
            }
            lines.finish().map_err(many)?;
            (Text::InPlace(file), lines)
        } else {
            let (spool, lines) = unpack::unpack(path, &file, meta.len(), format, columns, first_row, progress)?;
            (Text::Spooled(spool), lines)
        };
        Ok(DataFile { path: path.to_owned(), text, stamp, lines, first_row })
    }

    /// Returns the start and the length of the bytes that [`Rows::read`] reads for row `i` of this file.
    fn range(&self, i: usize) -> (u64, u64) {
        let start = self.lines.starts[i];
        let end = self.lines.starts.get(i + 1).copied().unwrap_or(self.lines.bytes);
        (start, end - start)
    }

    /// Counts the line ends in a range. `None` if the file can no longer be read.
    fn newlines(&self, range: Range<u64>) -> Option<u64> {
        let most = |bytes: u64| bytes.min(PIECE_BYTES as u64) as usize;
        let mut chunk = vec![0; most(range.end - range.start)];
        let (mut offset, mut lines) = (range.start, 0);
        while offset < range.end {
            match self.text.read_at(&mut chunk[..most(range.end - offset)], offset) {
                Ok(n) if n > 0 => {
                    lines += chunk[..n].iter().filter(|&&b| b == b'\n').count() as u64;
                    offset += n as u64;
                }
                _ => return None,
            }
        }
        Some(lines)
    }
}

/// The place of the last row whose line number is known.
#[derive(Debug, Default)]
pub(crate) struct PlaceCursor {
    /// Number of the first row of that row's file.
    first_row: usize,
    start: u64,
    /// Line ends before `start`.
    lines: u64,
}

/// Raises the limit on open files as far as `files` data files need and the system allows. Every data file stays open, and the
/// system's usual limit is lower than the number of shards of large data sets. Returns the limit that then applies.
fn allow_open_files(files: usize) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` means no limit
    let Some(current) = current else { return u64::MAX };
    let needed = files as u64 + OTHER_FILES;
    let raised = needed.min(maximum.unwrap_or(u64::MAX));
    let raise = || setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok();
    if raised > current && raise() { raised } else { current }
}
