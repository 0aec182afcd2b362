//! Rows that are bad before they are JSON: in the spool they stand as lines of their own kind, which say what is wrong.

use serde::{Deserialize, Serialize};

use super::BadRow;

/// Starts the line of a row that is bad: no JSON does.
const BAD: u8 = 1;

/// What follows it.
#[derive(Serialize, Deserialize)]
enum Fault {
    Value { column: String, message: String },
    Cells { found: usize, header: usize },
}

/// Puts the line of a bad row, without its end, behind what is there.
pub(super) fn put(line: &mut Vec<u8>, reason: &BadRow) {
    let fault = match reason {
        BadRow::Value { column, message } => Fault::Value { column: column.clone(), message: message.clone() },
        BadRow::Cells { found, header } => Fault::Cells { found: *found, header: *header },
        other => Fault::Value { column: String::new(), message: other.to_string() },
    };
    line.push(BAD);
    serde_json::to_writer(line, &fault).expect("texts print, and a vector takes them");
}

/// What is wrong with a row, if this is the line of a bad one.
pub(super) fn read(line: &[u8]) -> Option<BadRow> {
    Some(match serde_json::from_slice(line.strip_prefix(&[BAD])?).ok()? {
        Fault::Value { column, message } => BadRow::Value { column, message },
        Fault::Cells { found, header } => BadRow::Cells { found, header },
    })
}
