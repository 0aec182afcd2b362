//! Limits on the length of a row and on the number of rows.

use std::path::Path;

use super::error::SourceError;

/// Longest accepted row, in bytes.
pub(crate) const MAX_ROW_BYTES: u64 = 64 << 20;

/// Maximum number of rows that a run reads. Row numbers have 32 bits, and up to twice as many rows may be made of the rows that
/// are read.
pub(crate) const MAX_RECORDS: usize = (u32::MAX / 2) as usize;

/// Makes the error for a file with more than `most` lines. `first_row` is the number of the file's first row.
pub(crate) fn many_lines(path: &Path, most: u64, first_row: usize) -> SourceError {
    match first_row as u64 + most >= MAX_RECORDS as u64 {
        // rows beyond the limit were not counted
        true => SourceError::TooManyRows { rows: MAX_RECORDS + 1, limit: MAX_RECORDS },
        false => SourceError::ManyLines { path: path.to_owned(), limit: most },
    }
}
