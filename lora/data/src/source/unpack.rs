//! Writes out the rows of a file that does not hold them as lines: unpacks it, and finds its rows.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::column_map::ColumnMap;
use super::csv_rows::{self, CsvStop};
use super::error::SourceError;
use super::format::Format;
use super::json_array::{ArrayFault, ArrayLines};
use super::layout::TextLayout;
use super::lines::{LineIndex, LinesOf};
use super::parquet;
use super::spool::Spool;
use crate::pieces::{PIECE_BYTES, fill};

/// Writes out the rows of a file that is not plain JSONL as lines. For Parquet and CSV, writes only the columns that something
/// reads under `columns`.
///
/// # Errors
/// [`SourceError`] if the file is broken, if it unpacks to something other than rows or to far too much, or if the disk is full.
pub(crate) fn unpack(
    path: &Path,
    file: &File,
    bytes: u64,
    format: Format,
    columns: &ColumnMap,
    first_row: usize,
    mut progress: impl FnMut(u64),
) -> Result<(File, LineIndex), SourceError> {
    let lines = if format == Format::Text { LinesOf::Text(bytes) } else { LinesOf::Packed(bytes) };
    let mut spool = Spool::new(path, bytes, lines, first_row)?;
    if format == Format::Parquet {
        parquet::unpack(path, file, bytes, columns, &mut spool, &mut progress)?;
        return spool.finish();
    }
    let broken = |source: std::io::Error| match format {
        Format::Text => SourceError::Io { path: path.to_owned(), source },
        _ => SourceError::Unpack { path: path.to_owned(), format: format.name(), message: source.to_string() },
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
    broken: &dyn Fn(std::io::Error) -> SourceError,
    progress: &mut dyn FnMut(),
) -> Result<(), SourceError> {
    let path = spool.path;
    let mut first = Vec::with_capacity(PIECE_BYTES);
    fill(&mut text, &mut first).map_err(broken)?;
    let found = match Format::of(&first) {
        Ok(Format::Text) => None,
        Ok(other) => Some(other.name()),
        Err(other) => Some(other),
    };
    if let Some(found) = found {
        return Err(SourceError::Nested { path: path.to_owned(), outer: outer.name(), found });
    }
    let is_whole = first.len() < PIECE_BYTES;
    match TextLayout::of(path, &first, is_whole, columns)? {
        TextLayout::Lines => pieces(text, first, broken, |piece| {
            spool.write(piece)?;
            progress();
            Ok(())
        }),
        TextLayout::Array => {
            let fault = |ArrayFault { line, message }| {
                let message = format!("the JSON array {message}");
                SourceError::Broken { path: path.to_owned(), line, message }
            };
            let (mut array, mut lines) = (ArrayLines::new(), Vec::new());
            pieces(text, first, broken, |piece| {
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
            let whole = first.as_slice().chain(text);
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
                CsvStop::Fault { line, message } => SourceError::Broken { path: path.to_owned(), line, message },
                CsvStop::Out(error) => error,
            })?);
            Ok(())
        }
    }
}

/// Passes a text to `take` in pieces. `first` holds the bytes that were already read from it.
fn pieces(
    mut text: Box<dyn Read + '_>,
    first: Vec<u8>,
    broken: &dyn Fn(std::io::Error) -> SourceError,
    mut take: impl FnMut(&[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let mut piece = first;
    while !piece.is_empty() {
        take(&piece)?;
        fill(&mut text, &mut piece).map_err(broken)?;
    }
    Ok(())
}

/// Counts the bytes that were read from a file.
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
