//! From the per-sequence numbers of a batch to the loss, its derivatives and the rewards.

use super::choice::{Objective, Part};
use super::error::HeadError;
use super::loss::{Answer, Coupling, DataKind, Label, Loss, Pair, Statistics};
use align_engine::autograd::scalar::{Scalar, ScalarTape};

/// The per-sequence numbers of one data row: f64 sums of log-probabilities over the tokens of each answer, in nats.
#[derive(Clone, Debug, PartialEq)]
pub struct RowLogps {
    /// Under the policy, one per answer; a pair has chosen, then rejected.
    pub policy: Vec<f64>,
    /// Under the reference; empty if the objective needs none.
    pub reference: Vec<f64>,
    /// Tokens of each answer.
    pub lens: Vec<usize>,
    /// What is known about the answers.
    pub target: RowTarget,
    /// The mismatched answer, for an objective with [`Coupling::MismatchedRows`].
    pub mismatched: Option<Mismatched>,
}

/// What is known about the answers of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowTarget {
    /// Two answers, the first preferred.
    Pair,
    /// One answer, desirable or not.
    Label(bool),
}

/// Summed log-probabilities of another row's answer after this row's prompt, nats. They carry no gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatched {
    /// Under the policy.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
}

/// The row of the batch whose answer is put after the prompt of `row`: the one before, and for the first row the last.
pub fn mismatched_row(row: usize, batch_rows: usize) -> usize {
    (row + batch_rows - 1) % batch_rows
}

/// What the head gives back for the rows it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The rows' part of the mean over the optimiser batch; the parts of its micro-batches add up to the objective.
    pub loss: f64,
    /// The loss of each item before the mean: one a row, or for `kto_pair` two (all chosen, then all rejected).
    pub per_item_loss: Vec<f64>,
    /// Derivative of the batch's objective by each `policy` of each row: the `1 / batch_rows` is inside.
    pub d_policy: Vec<Vec<f64>>,
    /// `beta * (policy - reference)` of each answer of each row; no answers if the objective has no reference.
    pub rewards: Vec<Vec<f64>>,
    /// Pairs so far from a margin of 0 that the loss has no gradient for them; see [`Objective::saturation_warning`].
    pub saturated: usize,
}

impl Head {
    /// How many pairs have a chosen reward strictly above the rejected one.
    pub fn accurate(&self) -> usize {
        self.rewards.iter().filter(|rewards| matches!(rewards[..], [chosen, rejected] if chosen > rejected)).count()
    }
}

/// Share of saturated pairs from which the user is warned.
const SATURATED_SHARE: f64 = 0.03;

impl Objective {
    /// The numbers that the rows of a coupled loss share, over all rows of the optimiser batch.
    ///
    /// [`Coupling::None`]: none, `batch` is not looked at. [`Coupling::MismatchedRows`]: only `mismatched` is read, so it can
    /// be computed before the rows themselves. [`Coupling::WholeBatch`]: everything is read.
    ///
    /// # Errors
    /// [`HeadError::NonFinite`]; [`HeadError::BatchTooSmall`] for a batch of one row with mismatched answers, where the
    /// mismatched answer would be the row's own.
    ///
    /// # Panics
    /// If a number that the coupling needs is missing.
    pub fn statistics(&self, batch: &[RowLogps]) -> Result<Statistics, HeadError> {
        let part = &self.parts[0]; // a mix holds uncoupled losses only
        match &part.loss {
            Loss::Pair(_) => Ok(Statistics::default()),
            Loss::PairBatch(loss) => {
                let tape = ScalarTape::new();
                Ok(loss.statistics(&pairs(&self.on_tape(&tape, batch)?)))
            }
            Loss::Unpaired(loss) => {
                if batch.len() < 2 {
                    return Err(HeadError::BatchTooSmall { loss: part.spec.name, rows: batch.len(), needed: 2 });
                }
                let mut log_ratios = Vec::with_capacity(batch.len());
                for (row, numbers) in batch.iter().enumerate() {
                    let Mismatched { policy, reference } =
                        numbers.mismatched.expect("the trainer scores a mismatched answer for every row of this loss");
                    finite(row, "the policy log-prob of the mismatched answer", policy)?;
                    finite(row, "the reference log-prob of the mismatched answer", reference)?;
                    log_ratios.push(policy - reference);
                }
                Ok(loss.statistics(&log_ratios))
            }
        }
    }

    /// The objective of `rows`, as their part of the mean over the `batch_rows` rows of the optimiser batch.
    ///
    /// `statistics` are those of the whole optimiser batch. With [`Coupling::WholeBatch`] `rows` is that whole batch;
    /// otherwise any part of it.
    ///
    /// # Errors
    /// [`HeadError::NonFinite`] for numbers that are, or that become, NaN or infinite.
    ///
    /// # Panics
    /// If `rows` is empty or does not fit the objective's data, reference or coupling: a mistake of the caller.
    pub fn head(&self, rows: &[RowLogps], statistics: &Statistics, batch_rows: usize) -> Result<Head, HeadError> {
        assert!(!rows.is_empty() && rows.len() <= batch_rows, "{} rows of a batch of {batch_rows}", rows.len());
        if self.coupling() == Coupling::WholeBatch {
            assert_eq!(rows.len(), batch_rows, "{} is coupled over the whole batch", self.name());
        }
        let tape = ScalarTape::new();
        let answers = self.on_tape(&tape, rows)?;
        let items = self.items(rows, &answers, statistics);
        let loss = Scalar::mean(&items) * (rows.len() as f64 / batch_rows as f64);
        let grads = tape.backward(loss);

        let per_item_loss: Vec<f64> = items.iter().map(|item| item.value()).collect();
        for (item, &value) in per_item_loss.iter().enumerate() {
            finite(item % rows.len(), "the loss", value)?;
        }
        let d_policy: Vec<Vec<f64>> =
            answers.iter().map(|row| row.iter().map(|answer| grads.of(answer.policy)).collect()).collect();
        for (row, d_policy) in d_policy.iter().enumerate() {
            for &d in d_policy {
                finite(row, "the derivative of the loss by the policy log-prob", d)?;
            }
        }
        let rewards = rows
            .iter()
            .map(|row| row.policy.iter().zip(&row.reference).map(|(p, r)| self.beta * (p - r)).collect())
            .collect();
        let saturated = answers.iter().filter(|row| self.is_saturated(row)).count();
        Ok(Head { loss: loss.value(), per_item_loss, d_policy, rewards, saturated })
    }

    /// A sentence for the user when so many of `pairs` are saturated that the run will not learn from its data.
    pub fn saturation_warning(&self, saturated: usize, pairs: usize) -> Option<String> {
        let limit = self.saturates_beyond()?;
        (saturated as f64 > SATURATED_SHARE * pairs as f64).then(|| {
            format!(
                "{saturated} of {pairs} pairs have a reward margin beyond {limit} either way, where {} has no gradient: \
                 they are not learned. A smaller --beta brings them back",
                self.name()
            )
        })
    }

    fn saturates_beyond(&self) -> Option<f64> {
        let limits = self.parts.iter().map(|part| match &part.loss {
            Loss::Pair(loss) => loss.saturates_beyond(),
            Loss::PairBatch(_) | Loss::Unpaired(_) => None,
        });
        // a mix has a gradient as long as one of its losses has
        limits.reduce(|a, b| Some(a?.max(b?))).flatten()
    }

    fn is_saturated(&self, answers: &[Answer<'_>]) -> bool {
        match (self.saturates_beyond(), answers) {
            (Some(limit), &[chosen, rejected]) => {
                (self.beta * Pair { chosen, rejected }.log_ratio_margin().value()).abs() > limit
            }
            _ => false,
        }
    }

    /// The items whose mean is the objective.
    fn items<'t>(&self, rows: &[RowLogps], answers: &[Vec<Answer<'t>>], statistics: &Statistics) -> Vec<Scalar<'t>> {
        let Part { weight, loss, .. } = &self.parts[0];
        match loss {
            Loss::PairBatch(loss) => {
                loss.losses(&pairs(answers), statistics).into_iter().map(|item| *weight * item).collect()
            }
            Loss::Unpaired(loss) => {
                rows.iter().zip(answers).map(|(row, a)| *weight * loss.loss(&a[0], label(row), statistics)).collect()
            }
            Loss::Pair(_) => pairs(answers).iter().map(|pair| self.mix(pair)).collect(),
        }
    }

    /// The weighted sum of the losses of one pair.
    fn mix<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        let weighted = self.parts.iter().map(|part| match &part.loss {
            Loss::Pair(loss) => part.weight * loss.loss(pair),
            Loss::PairBatch(_) | Loss::Unpaired(_) => unreachable!("a mix holds losses of single pairs only"),
        });
        weighted.reduce(|sum, loss| sum + loss).expect("an objective has at least one loss")
    }

    /// The answers of every row, with the policy's numbers as leaves of `tape`.
    fn on_tape<'t>(&self, tape: &'t ScalarTape, rows: &[RowLogps]) -> Result<Vec<Vec<Answer<'t>>>, HeadError> {
        let n_answers = match self.data() {
            DataKind::Pairs => 2,
            DataKind::Unpaired => 1,
        };
        let mut answers = Vec::with_capacity(rows.len());
        for (row, numbers) in rows.iter().enumerate() {
            let RowLogps { policy, reference, lens, target, .. } = numbers;
            let fits = match target {
                RowTarget::Pair => self.data() == DataKind::Pairs,
                RowTarget::Label(_) => self.data() == DataKind::Unpaired,
            };
            assert!(fits, "row {row}: {} needs {}, the row is {target:?}", self.name(), self.data());
            assert_eq!([policy.len(), lens.len()], [n_answers; 2], "row {row}: answers, lengths");
            assert_eq!(reference.len(), if self.reference() { n_answers } else { 0 }, "row {row}: reference log-probs");
            let mut of_row = Vec::with_capacity(n_answers);
            for i in 0..n_answers {
                finite(row, "the policy log-prob", policy[i])?;
                let reference = if self.reference() { reference[i] } else { f64::NAN };
                if self.reference() {
                    finite(row, "the reference log-prob", reference)?;
                }
                let len = lens[i].max(1) as f64;
                of_row.push(Answer { policy: tape.leaf(policy[i]), reference, len });
            }
            answers.push(of_row);
        }
        Ok(answers)
    }
}

fn pairs<'t>(answers: &[Vec<Answer<'t>>]) -> Vec<Pair<'t>> {
    answers.iter().map(|row| Pair { chosen: row[0], rejected: row[1] }).collect()
}

fn label(row: &RowLogps) -> Label {
    match row.target {
        RowTarget::Label(true) => Label::Desirable,
        RowTarget::Label(false) => Label::Undesirable,
        RowTarget::Pair => unreachable!("on_tape checked the targets"),
    }
}

fn finite(row: usize, what: &'static str, value: f64) -> Result<(), HeadError> {
    if value.is_finite() { Ok(()) } else { Err(HeadError::NonFinite { row, what, value }) }
}
