//! Rows that cannot even become JSON. In the spool, each such row is a special line that says what is wrong.

use serde::{Deserialize, Serialize};

/// Starts the line of a bad row. No JSON starts with it.
const BAD: u8 = 1;

/// Why a row of a file cannot become a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum BadLine {
    /// The line is longer than a row may be.
    #[error("the line has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes of the line.
        bytes: u64,
        /// Maximum number of bytes that a line may have.
        limit: u64,
    },
    /// A row of CSV whose number of cells differs from the header's.
    #[error("the row has {}, the header {header}; is a delimiter or a line end in a cell without quotes?", cells(*found))]
    Cells {
        /// Cells of the row.
        found: usize,
        /// Columns of the header.
        header: usize,
    },
    /// A value of a Parquet or CSV file that JSON cannot hold, or that makes the row too long.
    #[error("column `{column}`: {message}")]
    Value {
        /// Path of the column.
        column: String,
        /// What is wrong with the value.
        message: String,
    },
}

impl BadLine {
    /// Appends the line of a bad row, without a line end.
    pub fn put(&self, line: &mut Vec<u8>) {
        line.push(BAD);
        serde_json::to_writer(line, self).expect("texts print, and a vector takes them");
    }

    /// Reads what is wrong with a row. `None` if this is not the line of a bad row.
    pub fn read(line: &[u8]) -> Option<BadLine> {
        serde_json::from_slice(line.strip_prefix(&[BAD])?).ok()
    }

    /// Returns the kind of fault in a few words, by which bad rows are counted.
    pub fn label(&self) -> &'static str {
        match self {
            BadLine::TooLong { .. } => "line too long",
            BadLine::Cells { .. } => "other number of cells than the header",
            BadLine::Value { .. } => "value that cannot be read",
        }
    }
}

fn cells(n: usize) -> String {
    if n == 1 { "1 cell".to_owned() } else { format!("{n} cells") }
}
