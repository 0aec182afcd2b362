//! Checks whether files have the columns that a map names.

use std::path::PathBuf;

use super::columns::Columns;
use crate::deep_stack::with_deep_stack;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::reader::Rows;

/// Whether any row of the files has any of the columns that `map` names. Rows that cannot be parsed count as having none.
///
/// # Errors
/// [`SourceError`] of a file that cannot be read.
pub fn any_row_has(paths: &[PathBuf], map: &ColumnMap) -> Result<bool, SourceError> {
    let rows = Rows::open(paths, map)?;
    with_deep_stack(|| {
        for row in 0..rows.len() {
            let Ok(line) = rows.read(row)? else { continue };
            let columns = std::str::from_utf8(&line).ok().and_then(|text| Columns::parse(text, map).ok());
            if columns.is_some_and(|columns| columns.seen() != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_with_one_of_the_columns_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let map: ColumnMap = "prompt=question,chosen=better".parse().unwrap();
        for (text, found) in [
            ("{\"prompt\": \"a\"}\n{\"chosen\": \"b\"}\n", false),
            ("{\"prompt\": \"a\"}\nno row\n[]\n", false),
            ("{\"prompt\": \"a\"}\nno row\n{\"better\": 1}\n", true),
            ("{\"question\": null}\n", true),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(any_row_has(std::slice::from_ref(&path), &map).unwrap(), found, "{text}");
        }
    }
}
