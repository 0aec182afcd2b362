//! JSONL files by row: one pass finds where rows start, then any row can be read in any order.
//!
//! Files are read with positioned reads and not mapped: a data file that shrinks while it is mapped would end the process
//! (SIGBUS), and rows are read once an epoch, so a mapping saves nothing.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{BadRow, DataError};

/// Longest accepted row, in bytes.
pub const MAX_ROW_BYTES: u64 = 64 << 20;
/// Bytes read at a time while looking for rows.
const SCAN_BYTES: usize = 1 << 20;
/// UTF-8's byte-order mark: accepted and skipped at the start of a file.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The rows of several JSONL files, numbered over all of them.
#[derive(Debug)]
pub struct Rows {
    files: Vec<JsonlFile>,
    rows: usize,
}

/// One JSONL file and where its rows start: 8 bytes a row.
#[derive(Debug)]
struct JsonlFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    modified: Option<SystemTime>,
    /// Start of every line that is not blank.
    starts: Vec<u64>,
    /// Number of this file's first row over all files.
    first_row: usize,
    blank_lines: usize,
}

impl Rows {
    /// Opens the files and finds their rows. Blank lines are no rows; a byte-order mark and CRLF are accepted.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::NotAFile`] (pipes and folders), [`DataError::Empty`] if there is no row at all.
    pub fn open(paths: &[PathBuf]) -> Result<Rows, DataError> {
        let mut files = Vec::with_capacity(paths.len());
        let mut rows = 0;
        for path in paths {
            let file = JsonlFile::open(path, rows)?;
            rows += file.starts.len();
            files.push(file);
        }
        if rows == 0 {
            return Err(DataError::Empty { paths: paths.to_vec() });
        }
        Ok(Rows { files, rows })
    }

    /// Number of rows over all files; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Blank lines that were passed over.
    pub fn blank_lines(&self) -> usize {
        self.files.iter().map(|f| f.blank_lines).sum()
    }

    /// The bytes of a row, without its line end; the inner error is for a row too long to read.
    ///
    /// # Errors
    /// [`DataError::Io`]. A row number at or above [`Rows::len`] panics.
    pub fn read(&self, row: usize) -> Result<Result<Vec<u8>, BadRow>, DataError> {
        let (file, i) = self.locate(row);
        let start = file.starts[i];
        let end = file.starts.get(i + 1).copied().unwrap_or(file.bytes);
        // up to the next row: what follows the line end is blank
        let bytes = end - start;
        if bytes > MAX_ROW_BYTES {
            return Ok(Err(BadRow::TooLong { bytes, limit: MAX_ROW_BYTES }));
        }
        let mut line = vec![0; usize::try_from(bytes).expect("checked against MAX_ROW_BYTES")];
        file.file.read_exact_at(&mut line, start).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => DataError::Changed { path: file.path.clone() },
            _ => DataError::Io { path: file.path.clone(), source },
        })?;
        line.truncate(line.trim_ascii_end().len());
        Ok(Ok(line))
    }

    /// Checks that no file has changed since it was opened.
    ///
    /// # Errors
    /// [`DataError::Changed`] if the size or the time of modification differ.
    pub fn check_unchanged(&self) -> Result<(), DataError> {
        for file in &self.files {
            let now = file.file.metadata().map_err(|source| DataError::Io { path: file.path.clone(), source })?;
            if now.len() != file.bytes || now.modified().ok() != file.modified {
                return Err(DataError::Changed { path: file.path.clone() });
            }
        }
        Ok(())
    }

    /// The error of a bad row, with its file and line.
    pub fn row_error(&self, row: usize, reason: BadRow) -> DataError {
        let (path, line) = self.place(row);
        DataError::Row { path, line, reason }
    }

    /// File and 1-based line of a row. Counts the lines before it, so it is for messages only.
    pub fn place(&self, row: usize) -> (PathBuf, u64) {
        let (file, i) = self.locate(row);
        (file.path.clone(), file.line_number(file.starts[i]))
    }

    fn locate(&self, row: usize) -> (&JsonlFile, usize) {
        assert!(row < self.rows, "row {row} of {}: the caller counts rows with len()", self.rows);
        let after = self.files.partition_point(|f| f.first_row <= row);
        let file = &self.files[after - 1];
        (file, row - file.first_row)
    }
}

impl JsonlFile {
    fn open(path: &Path, first_row: usize) -> Result<JsonlFile, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), source };
        // before opening: opening a pipe that nobody writes to would wait for ever
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(DataError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;

        let mut starts = Vec::new();
        let mut blank_lines = 0;
        let mut offset = 0u64; // of the next byte
        let mut line_start = 0u64;
        let mut has_text = false; // in the line so far
        let mut chunk = vec![0; SCAN_BYTES];
        let mut reader = &file;
        loop {
            let n = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io(e)),
            };
            let mut rest = &chunk[..n];
            if offset == 0 && rest.starts_with(BOM) {
                rest = &rest[BOM.len()..];
                offset = BOM.len() as u64;
                line_start = offset;
            }
            while !rest.is_empty() {
                let newline = rest.iter().position(|&b| b == b'\n');
                let line = &rest[..newline.unwrap_or(rest.len())];
                has_text = has_text || line.iter().any(|b| !b.is_ascii_whitespace());
                offset += line.len() as u64;
                rest = &rest[line.len()..];
                if newline.is_some() {
                    if has_text {
                        starts.push(line_start)
                    } else {
                        blank_lines += 1
                    }
                    rest = &rest[1..];
                    offset += 1;
                    line_start = offset;
                    has_text = false;
                }
            }
        }
        if has_text {
            starts.push(line_start); // the last line has no line end
        }
        starts.shrink_to_fit();
        let modified = meta.modified().ok();
        Ok(JsonlFile { path: path.to_owned(), file, bytes: offset, modified, starts, first_row, blank_lines })
    }

    /// 1-based number of the line that starts at a byte; 0 if the file cannot be read any more.
    fn line_number(&self, start: u64) -> u64 {
        let mut chunk = vec![0; SCAN_BYTES];
        let (mut offset, mut lines) = (0, 0);
        while offset < start {
            let want = usize::try_from(start - offset).unwrap_or(SCAN_BYTES).min(SCAN_BYTES);
            match self.file.read_at(&mut chunk[..want], offset) {
                Ok(n) if n > 0 => {
                    lines += chunk[..n].iter().filter(|&&b| b == b'\n').count() as u64;
                    offset += n as u64;
                }
                _ => return 0,
            }
        }
        lines + 1
    }
}
