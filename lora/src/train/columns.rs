//! Columns that an objective cannot do without, and rows that lack one.

use super::error::TrainError;
use crate::data::{Dataset, EncodedRow, NumberCounts, RowNumbers};
use crate::objective::{Objective, find};

/// Rows that are read at a time, looking for the first that lacks a column.
const WINDOW: usize = 1024;

/// Refuses data of which a row lacks a column that the objective reads.
///
/// # Errors
/// [`TrainError::MissingColumn`] with the first such row; [`TrainError::Data`].
pub(super) fn check(objective: &Objective, data: &Dataset) -> Result<(), TrainError> {
    let (counts, kept) = (data.survey().numbers, data.survey().kept);
    for (loss, column) in required(objective) {
        if rows_with(column, &counts) == kept {
            continue;
        }
        let numbers: Vec<u32> = (0..data.len() as u32).collect();
        for window in numbers.chunks(WINDOW) {
            if let Some(row) = data.rows(window)?.iter().find(|row| !has(column, &row.numbers)) {
                return Err(TrainError::MissingColumn { row: place(data, row), loss: loss.to_owned(), column });
            }
        }
    }
    Ok(())
}

/// The columns that the losses of the objective read, each with its loss.
fn required(objective: &Objective) -> Vec<(&'static str, &'static str)> {
    let name = objective.name();
    let losses = name.split(',').filter_map(|part| find(part.split(':').next()?).ok());
    losses.flat_map(|(spec, _)| spec.columns.iter().map(|&column| (spec.name, column))).collect()
}

fn rows_with(column: &str, counts: &NumberCounts) -> usize {
    match column {
        "prob_win_chosen" | "prob_win_rejected" => counts.win_probability,
        "prob_chosen_beats_rejected" => counts.beats_probability,
        other => unreachable!("no row has a column `{other}`"),
    }
}

fn has(column: &str, numbers: &RowNumbers) -> bool {
    match column {
        "prob_win_chosen" | "prob_win_rejected" => numbers.win_probability.is_some(),
        "prob_chosen_beats_rejected" => numbers.beats_probability.is_some(),
        other => unreachable!("no row has a column `{other}`"),
    }
}

/// `FILE:LINE: ROW`, or the row alone where the file cannot be read any more.
fn place(data: &Dataset, row: &EncodedRow) -> String {
    let described = super::step::describe(row);
    match data.place(row.row) {
        Ok((path, line)) => format!("{}:{line}: {described}", path.display()),
        Err(_) => described,
    }
}
