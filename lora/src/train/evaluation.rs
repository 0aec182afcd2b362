//! Loss and rewards over a data set.

use super::columns;
use super::error::TrainError;
use super::memory::{BatchCut, SingleLast};
use super::metrics::{EvalMetrics, PreferenceSums};
use super::scoring::Scoring;
use super::step::Batch;
use crate::data::{Dataset, Shuffle};
use crate::objective::{Coupling, History, Objective};

/// How an evaluation cuts its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalBatches {
    /// Rows that share statistics in a loss that has any.
    pub batch_size: usize,
    /// Limit on prompt + one answer.
    pub max_length: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// What the run remembers; nothing, where there is none.
    pub history: History,
}

/// Means over the rows of a data set, in the order of its files, in batches of the same size as those of training: a loss whose
/// rows share statistics takes them per batch.
///
/// # Errors
/// [`TrainError`].
pub fn evaluate(
    scoring: &Scoring<'_>,
    objective: &Objective,
    data: &Dataset,
    batches: &EvalBatches,
    step: u64,
    epoch: f64,
) -> Result<EvalMetrics, TrainError> {
    check(objective, data)?;
    let order = data.order(Shuffle::Off, 0);
    let single_last = single_last_of_evaluation(objective.coupling());
    let cut = BatchCut { batch_size: batches.batch_size, single_last };
    let mut sums = PreferenceSums::default();
    let (mut loss, mut rows_seen) = (0.0, 0);
    for chunk in cut.batches(&order) {
        let rows = data.rows(chunk)?;
        let batch = Batch {
            objective,
            rows: &rows,
            max_length: batches.max_length,
            micro_batch_tokens: batches.micro_batch_tokens,
            step,
            history: batches.history.for_evaluation(),
        };
        let outcome = batch.evaluate(scoring).map_err(of_evaluation)?;
        loss += outcome.loss * rows.len() as f64;
        rows_seen += rows.len() as u64;
        sums.merge(outcome.preferences);
    }
    Ok(EvalMetrics {
        step,
        epoch,
        rows: rows_seen,
        loss: loss / rows_seen as f64,
        preferences: sums.means(),
        logps_accuracies: sums.logps_accuracies(),
    })
}

/// Refuses data that an objective cannot be evaluated on.
///
/// # Errors
/// [`TrainError::OneRow`], [`TrainError::MissingColumn`], [`TrainError::Data`].
pub(super) fn check(objective: &Objective, data: &Dataset) -> Result<(), TrainError> {
    if data.len() == 1 && objective.coupling() == Coupling::MismatchedRows {
        return Err(TrainError::OneRow { loss: objective.name() });
    }
    columns::check(objective, data)
}

/// An evaluation has no step and no learning rate.
fn of_evaluation(error: TrainError) -> TrainError {
    match error {
        TrainError::NonFinite { what, rows, .. } => TrainError::NonFiniteEvaluation { what, rows },
        other => other,
    }
}

/// A single last row has no other row to be compared with.
pub(super) fn single_last_of_evaluation(coupling: Coupling) -> SingleLast {
    match coupling {
        Coupling::MismatchedRows => SingleLast::Joined,
        Coupling::None | Coupling::WholeBatch => SingleLast::Kept,
    }
}
