//! Numbers that stand beside a pair, for the losses that read them.

use serde::{Deserialize, Serialize};

use super::columns::{Columns, wrong_type};
use crate::bad_row::BadRow;

/// The columns, by our names.
pub(crate) const NUMBER_COLUMNS: [&str; 5] =
    ["weight", "margin", "prob_win_chosen", "prob_win_rejected", "prob_chosen_beats_rejected"];

/// What a pair says beside which answer is preferred. A null is as good as no column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowNumbers {
    /// What the pair's loss is multiplied by: finite, not negative. A row without one counts as 1,
    /// [`RowNumbers::weight_or_one`].
    pub weight: Option<f64>,
    /// How much better the chosen answer is, in the unit of the loss that reads it: finite. A row without one has 0,
    /// [`RowNumbers::margin_or_zero`].
    pub margin: Option<f64>,
    /// Probabilities in [0, 1] that the chosen answer wins, and that the rejected one does: both or neither. A loss that needs
    /// them cannot do without.
    pub win_probability: Option<[f64; 2]>,
    /// Probability in [0, 1] that the chosen answer beats the rejected one.
    pub beats_probability: Option<f64>,
}

impl RowNumbers {
    /// [`RowNumbers::weight`], 1 where the row has none.
    pub fn weight_or_one(&self) -> f64 {
        self.weight.unwrap_or(1.0)
    }

    /// [`RowNumbers::margin`], 0 where the row has none.
    pub fn margin_or_zero(&self) -> f64 {
        self.margin.unwrap_or(0.0)
    }

    /// Reads the columns of a pair.
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
