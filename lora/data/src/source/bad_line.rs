//! Rows that cannot even become JSON. In the spool, each one is a special line that says what is wrong.

use serde::{Deserialize, Serialize};

use crate::bad_row::BadRow;

/// Starts the line of a bad row. No JSON starts with it.
const BAD: u8 = 1;

/// What follows the start.
#[derive(Serialize, Deserialize)]
enum Fault {
    Value { column: String, message: String },
    Cells { found: usize, header: usize },
}

/// Appends the line of a bad row, without a line end.
pub(crate) fn put(line: &mut Vec<u8>, reason: &BadRow) {
    let fault = match reason {
        BadRow::Value { column, message } => Fault::Value { column: column.clone(), message: message.clone() },
        BadRow::Cells { found, header } => Fault::Cells { found: *found, header: *header },
        other => Fault::Value { column: String::new(), message: other.to_string() },
    };
    line.push(BAD);
    serde_json::to_writer(line, &fault).expect("texts print, and a vector takes them");
}

/// Reads what is wrong with a row. `None` if this is not the line of a bad row.
pub(crate) fn read(line: &[u8]) -> Option<BadRow> {
    Some(match serde_json::from_slice(line.strip_prefix(&[BAD])?).ok()? {
        Fault::Value { column, message } => BadRow::Value { column, message },
        Fault::Cells { found, header } => BadRow::Cells { found, header },
    })
}
