//! Loss and rewards over a data set.
//!
//! Some losses have numbers that all rows share (KTO's reference point, BCO's shift if training has left none). They are
//! computed over the whole set, so they do not depend on the batch size. In three cases an evaluation works batch by batch
//! instead: the rows share no number; the loss compares the rows of a batch with each other; the data are in TRL's order, and
//! TRL evaluates batch by batch.

use super::columns;
use super::error::TrainError;
use super::metrics::{EvalMetrics, PreferenceSums};
use super::scoring::Scoring;
use super::step::{Batch, Donors, describe, head_error};
use super::steps::{BatchCut, SingleLast};
use crate::objective::{BatchTotals, Coupling, HeadError, History, Objective, RowLogps, Statistics};
use align_data::{Dataset, Shuffle, UnpairedOrder};

/// How many rows the objective's head computes at once in an evaluation over the whole set.
const HEAD_ROWS: usize = 1024;

/// How an evaluation cuts its rows into passes, and the statistics that it starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalBatches {
    /// How many rows are read at once. If the evaluation works batch by batch, these rows are a batch.
    pub batch_size: usize,
    /// Maximum number of tokens of a prompt with one answer.
    pub max_length: usize,
    /// Maximum number of tokens in the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Running statistics of the training steps so far. Empty if there is no run.
    pub history: History,
}

/// The rows with which an evaluated row shares the numbers of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// With its batch.
    Batch,
    /// With the whole set.
    Set,
}

impl Sharing {
    pub(super) fn of(objective: &Objective, data: &Dataset) -> Sharing {
        let uncoupled = objective.coupling() == Coupling::None;
        match data.unpaired_order() {
            UnpairedOrder::Interleaved if !uncoupled && !objective.compares_rows() => Sharing::Set,
            UnpairedOrder::Interleaved | UnpairedOrder::Trl => Sharing::Batch,
        }
    }

    /// Says what to do with a last batch of one row. It has no other row to be compared with.
    pub(super) fn single_last(self, coupling: Coupling) -> SingleLast {
        match (self, coupling) {
            (Sharing::Batch, Coupling::MismatchedRows) => SingleLast::Joined,
            (Sharing::Batch, Coupling::None | Coupling::WholeBatch) | (Sharing::Set, _) => SingleLast::Kept,
        }
    }
}

/// Computes mean loss and rewards over the rows of a data set, in its unshuffled order. Calls `progress` with the number of rows
/// that are done.
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
    progress: &mut dyn FnMut(usize),
) -> Result<EvalMetrics, TrainError> {
    check(objective, data)?;
    let evaluation = Evaluation { scoring, objective, data, batches, step, order: data.order(Shuffle::Off, 0) };
    let Means { loss, preferences } = match Sharing::of(objective, data) {
        Sharing::Batch => evaluation.by_batches(progress)?,
        Sharing::Set => evaluation.of_the_set(progress)?,
    };
    Ok(EvalMetrics {
        step,
        epoch,
        rows: data.len() as u64,
        loss: loss / data.len() as f64,
        preferences: preferences.means(),
        logps_accuracies: preferences.logps_accuracies(),
    })
}

struct Evaluation<'a> {
    scoring: &'a Scoring<'a>,
    objective: &'a Objective,
    data: &'a Dataset,
    batches: &'a EvalBatches,
    step: u64,
    order: Vec<u32>,
}

/// Sums over the evaluated rows. The reported means are made from them.
#[derive(Default)]
struct Means {
    loss: f64,
    preferences: PreferenceSums,
}

impl Evaluation<'_> {
    fn by_batches(&self, progress: &mut dyn FnMut(usize)) -> Result<Means, TrainError> {
        let single_last = Sharing::Batch.single_last(self.objective.coupling());
        let cut = BatchCut { batch_size: self.batches.batch_size, single_last };
        let donors = Donors::Batch(self.data.mismatch());
        let mut means = Means::default();
        let mut done = 0;
        for chunk in cut.batches(&self.order) {
            let rows = self.data.rows(chunk)?;
            let batch = Batch { rows: &rows, donors, ..self.batch() };
            let outcome = batch.evaluate(self.scoring).map_err(of_evaluation)?;
            means.loss += outcome.loss * rows.len() as f64;
            means.preferences.merge(outcome.preferences);
            done += rows.len();
            progress(done);
        }
        Ok(means)
    }

    fn of_the_set(&self, progress: &mut dyn FnMut(usize)) -> Result<Means, TrainError> {
        let donors = match self.objective.coupling() {
            Coupling::MismatchedRows => self.data.donors(&self.order),
            Coupling::None | Coupling::WholeBatch => Vec::new(),
        };
        let mut logps: Vec<RowLogps> = Vec::with_capacity(self.order.len());
        for chunk in self.order.chunks(self.batches.batch_size) {
            let rows = self.data.rows(chunk)?;
            let donors = match donors.get(logps.len()..logps.len() + chunk.len()) {
                Some(donors) => self.data.rows(donors)?,
                None => Vec::new(),
            };
            let batch = Batch { rows: &rows, donors: Donors::Rows(&donors), ..self.batch() };
            logps.extend(batch.score(self.scoring)?);
            progress(logps.len());
        }
        let history = self.batches.history.for_evaluation();
        let statistics = self.objective.statistics(&logps, &history).map_err(|error| self.error(0, error))?;
        let means = means_of_set(self.objective, &logps, &statistics, HEAD_ROWS);
        let mut means = means.map_err(|(first, error)| self.error(first, error))?;
        if let Some(kl) = statistics.find("kl") {
            means.preferences.add_kl(kl, logps.len());
        }
        Ok(means)
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            objective: self.objective,
            rows: &[],
            max_length: self.batches.max_length,
            micro_batch_tokens: self.batches.micro_batch_tokens,
            step: self.step,
            history: self.batches.history.for_evaluation(),
            donors: Donors::Rows(&[]),
        }
    }

    /// Turns an error of the head into one that names its row. The row's number in `error` counts from place `first` of the
    /// order.
    fn error(&self, first: usize, error: HeadError) -> TrainError {
        let name = |row: usize| {
            let number = self.order[first + row];
            match self.data.rows(&[number]) {
                Ok(rows) => describe(&rows[0]),
                Err(_) => format!("usable row {number}"),
            }
        };
        of_evaluation(head_error(error, self.step, name))
    }
}

/// Adds up loss and rewards of a whole set, `at_once` rows at a time. Each part of the loss is divided by its count of rows or
/// tokens in the whole set. An error comes with the place of the first row of its chunk; the row's number in the error counts from
/// there.
fn means_of_set(
    objective: &Objective,
    set: &[RowLogps],
    statistics: &Statistics,
    at_once: usize,
) -> Result<Means, (usize, HeadError)> {
    let totals = BatchTotals::of_rows(set);
    let mut means = Means::default();
    for (place, rows) in set.chunks(at_once).enumerate() {
        let head = objective.head(rows, statistics, totals).map_err(|error| (place * at_once, error))?;
        means.loss += head.loss * totals.rows as f64;
        means.preferences.add(rows, &head);
    }
    Ok(means)
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

/// Whether an objective needs mismatched answers but all rows have the same prompt.
pub fn one_prompt(objective: &Objective, data: &Dataset) -> bool {
    objective.coupling() == Coupling::MismatchedRows && data.has_one_prompt()
}

/// Turns the error of a step into the error of an evaluation, whose message does not name a step.
fn of_evaluation(error: TrainError) -> TrainError {
    match error {
        TrainError::NonFinite { what, rows, .. } => TrainError::NonFiniteEvaluation { what, rows },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::KnobValue;
    use crate::objective::tests::pair;

    /// Makes pairs whose chosen answers have 1, 2, 3 ... tokens.
    fn pairs(n: usize) -> Vec<RowLogps> {
        let of_tokens = |n: usize| pair([-3.0 * n as f64, -9.5], &[-2.5 * n as f64, -9.0], [n, 4]);
        (1..=n).map(of_tokens).collect()
    }

    /// A likelihood term is a mean over the tokens of the whole set, however many rows are computed at once.
    #[test]
    fn a_set_has_one_mean_over_its_tokens() {
        let rows = pairs(7);
        for loss in ["alpha_dpo", "kto_pair", "bco_pair"] {
            let loss_of = |at_once: usize, knobs: &[(&str, KnobValue)]| {
                let objective = Objective::new(loss, knobs).unwrap();
                let statistics = objective.statistics(&rows, &History::default()).unwrap();
                means_of_set(&objective, &rows, &statistics, at_once).unwrap().loss / rows.len() as f64
            };
            let weight = [("sft_weight", KnobValue::Number(1.0))];
            let (whole, parts) = (loss_of(100, &weight), loss_of(2, &weight));
            assert!((whole - parts).abs() < 1e-12 * whole, "{loss}: {whole} {parts}");
            // -log p is 3 per token of a chosen answer
            assert!((parts - loss_of(2, &[]) - 3.0).abs() < 1e-12, "{loss}: {parts}");
        }
    }
}
