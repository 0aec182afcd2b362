//! Checks that every row has the columns that the objective reads.

use super::error::TrainError;
use crate::objective::{Column, Objective};
use align_data::{Dataset, EncodedRow, NumberCounts};

/// How many rows are read at a time to find the first that lacks a column.
const WINDOW: usize = 1024;

/// Refuses data if a row lacks a column that the objective reads.
///
/// # Errors
/// [`TrainError::MissingColumn`] with the first such row; [`TrainError::Data`].
pub(super) fn check(objective: &Objective, data: &Dataset) -> Result<(), TrainError> {
    let (counts, kept) = (data.survey().numbers, data.survey().kept);
    for (loss, column) in objective.columns() {
        if rows_with(column, &counts) == kept {
            continue;
        }
        let numbers: Vec<u32> = (0..data.len() as u32).collect();
        for window in numbers.chunks(WINDOW) {
            if let Some(row) = data.rows(window)?.iter().find(|row| !column.is_in(&row.numbers)) {
                let (row, loss, column) = (place(data, row), loss.to_owned(), column.name());
                return Err(TrainError::MissingColumn { row, loss, column });
            }
        }
    }
    Ok(())
}

fn rows_with(column: Column, counts: &NumberCounts) -> usize {
    match column {
        Column::ProbWinChosen | Column::ProbWinRejected => counts.win_probability,
        Column::ProbChosenBeatsRejected => counts.beats_probability,
    }
}

/// Returns `FILE:LINE: ROW`, or only the description of the row if the file can no longer be read.
fn place(data: &Dataset, row: &EncodedRow) -> String {
    let described = super::step::describe(row);
    match data.place(row.row) {
        Ok((path, line)) => format!("{}:{line}: {described}", path.display()),
        Err(_) => described,
    }
}
