//! Columns of numbers that a pair may have beside its answers, for the losses that read them.

use super::bad_row::BadRow;
use super::columns::{Columns, wrong_type};
use crate::row::RowNumbers;

impl RowNumbers {
    /// Reads the number columns of a pair.
    ///
    /// # Errors
    /// [`BadRow::Type`], [`BadRow::OutOfRange`], and [`BadRow::HalfProbability`] for one of the two probabilities.
    pub(crate) fn take(columns: &mut Columns<'_>) -> Result<RowNumbers, BadRow> {
        let weight = number(columns, "weight", 0.0, f64::MAX, "a finite number, not negative")?;
        let margin = number(columns, "margin", f64::MIN, f64::MAX, "a finite number")?;
        let mut probability = |name| number(columns, name, 0.0, 1.0, "a probability, from 0 to 1");
        let win_probability = match (probability("prob_win_chosen")?, probability("prob_win_rejected")?) {
            (Some(chosen), Some(rejected)) => Some([chosen, rejected]),
            (None, None) => None,
            (Some(_), None) => return Err(BadRow::HalfProbability { missing: columns.column("prob_win_rejected") }),
            (None, Some(_)) => return Err(BadRow::HalfProbability { missing: columns.column("prob_win_chosen") }),
        };
        let beats_probability = probability("prob_chosen_beats_rejected")?;
        Ok(RowNumbers { weight, margin, win_probability, beats_probability })
    }
}

fn number(
    columns: &mut Columns<'_>,
    name: &str,
    low: f64,
    high: f64,
    expected: &'static str,
) -> Result<Option<f64>, BadRow> {
    let Some(value) = columns.take(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let field = columns.column(name);
    let number = value.as_f64().ok_or_else(|| wrong_type(field.clone(), &value, expected))?;
    match (low..=high).contains(&number) {
        true => Ok(Some(number)),
        false => Err(BadRow::OutOfRange { field, found: number, expected }),
    }
}
