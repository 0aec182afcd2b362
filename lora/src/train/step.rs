//! One optimiser step: forward and backward passes over micro-batches, then the update.
//!
//! The mean of the objective is over the rows of the step, whatever the micro-batches. A loss whose rows share statistics (KTO's
//! reference point, say) gets them from a first pass without gradients when the step does not fit one forward pass.

use super::error::TrainError;
use super::forest::{Branch, Forest, Role, Tree};
use super::metrics::PreferenceSums;
use super::scoring::{Forward, Scoring, StepDropout, TreeOfStep};
use crate::data::{Answer, EncodedRow, Target, mismatched_answers, pack};
use crate::objective::{Coupling, Head, HeadError, Mismatched, Objective, RowLogps, RowTarget, Statistics};
use align_engine::autograd::{Mode, ParamGrads};
use align_engine::model::Gradients;
use align_engine::rows::Dropout;

/// What the passes of a step share.
pub struct Batch<'a> {
    pub objective: &'a Objective,
    pub rows: &'a [EncodedRow],
    pub max_length: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Number of the step, from 1, for messages.
    pub step: u64,
}

/// What a step or an evaluated batch gives.
#[derive(Debug, Default)]
pub struct Outcome {
    pub loss: f64,
    pub preferences: PreferenceSums,
    /// Pairs for which the loss has no gradient.
    pub saturated: usize,
    /// Forward passes with a gradient.
    pub micro_batches: usize,
    /// Those of them that held more than was planned, with all layers recomputed.
    pub beyond_plan: usize,
}

impl Outcome {
    /// Counts a pass that does not fit.
    fn kept(&mut self, layers: Option<usize>) -> usize {
        self.beyond_plan += usize::from(layers.is_none());
        layers.unwrap_or(0)
    }

    fn add(&mut self, rows: &[RowLogps], head: &Head) {
        self.loss += head.loss;
        self.preferences.add(rows, head);
        self.saturated += head.saturated;
    }
}

/// Decides how many layers keep their activations in a forward and backward pass over some trees, the adapter's gradients being there
/// before it or not.
pub type LayersKept<'a> = &'a dyn Fn(&[Tree<'_>], Gradients) -> Option<usize>;

impl Batch<'_> {
    /// Loss and gradients of the batch, the latter added to `grads`.
    ///
    /// # Errors
    /// [`TrainError::NonFinite`] for a number that is NaN or infinite; [`TrainError::Kernel`].
    pub fn gradients(
        &self,
        scoring: &Scoring<'_>,
        dropout: Option<Dropout>,
        layers_kept: LayersKept<'_>,
        grads: &mut ParamGrads,
    ) -> Result<Outcome, TrainError> {
        let mismatched = self.mismatched();
        let micro_batches = self.micro_batches(&mismatched);
        let n = self.rows.len();
        let mut outcome = Outcome { micro_batches: micro_batches.len(), ..Outcome::default() };
        let masks = |members: &[usize]| step_dropout(dropout, members, |_| 0);

        if let [members] = &micro_batches[..] {
            let trees = self.trees(members, &mismatched, Role::Gradient);
            let kept = outcome.kept(layers_kept(&trees, Gradients::Fresh));
            let forward = scoring.forward(&trees, Mode::Record, masks(members), kept)?;
            let logps = self.logps(members, &forward);
            let statistics = self.statistics(&logps)?;
            let head = self.head(members, &logps, &statistics)?;
            outcome.add(&logps, &head);
            self.add_statistics(&mut outcome, &statistics);
            backward(forward, &head, grads)?;
            return Ok(outcome);
        }
        match self.objective.coupling() {
            Coupling::None | Coupling::MismatchedRows => {
                let statistics = self.statistics_of_mismatched(scoring, dropout, &micro_batches, &mismatched)?;
                for members in &micro_batches {
                    let trees = self.trees(members, &[], Role::Gradient);
                    let kept = outcome.kept(layers_kept(&trees, Gradients::There));
                    let forward = scoring.forward(&trees, Mode::Record, masks(members), kept)?;
                    let logps = self.logps(members, &forward);
                    let head = self.head(members, &logps, &statistics)?;
                    outcome.add(&logps, &head);
                    backward(forward, &head, grads)?;
                }
                self.add_statistics(&mut outcome, &statistics);
            }
            Coupling::WholeBatch => {
                let mut logps = vec![None; n];
                for members in &micro_batches {
                    let trees = self.trees(members, &[], Role::Detached);
                    let forward = scoring.forward(&trees, Mode::Inference, masks(members), 0)?;
                    for (member, row) in members.iter().zip(self.logps(members, &forward)) {
                        logps[*member] = Some(row);
                    }
                }
                let logps: Vec<_> = logps.into_iter().map(|row| row.expect("packing loses no row")).collect();
                let everything: Vec<usize> = (0..n).collect();
                let statistics = self.statistics(&logps)?;
                let head = self.head(&everything, &logps, &statistics)?;
                outcome.add(&logps, &head);
                self.add_statistics(&mut outcome, &statistics);
                for members in &micro_batches {
                    let trees = self.trees(members, &[], Role::Gradient);
                    let kept = outcome.kept(layers_kept(&trees, Gradients::There));
                    let forward = scoring.forward(&trees, Mode::Record, masks(members), kept)?;
                    let d_policy = members.iter().map(|member| head.d_policy[*member].clone()).collect();
                    backward(forward, &Head { d_policy, ..head.clone() }, grads)?;
                }
            }
        }
        Ok(outcome)
    }

    /// Loss and rewards of the batch, without gradients.
    ///
    /// # Errors
    /// As [`Batch::gradients`].
    pub fn evaluate(&self, scoring: &Scoring<'_>) -> Result<Outcome, TrainError> {
        let mismatched = self.mismatched();
        let mut logps = vec![None; self.rows.len()];
        for members in self.micro_batches(&mismatched) {
            let trees = self.trees(&members, &mismatched, Role::Detached);
            let forward = scoring.forward(&trees, Mode::Inference, None, 0)?;
            for (member, row) in members.iter().zip(self.logps(&members, &forward)) {
                logps[*member] = Some(row);
            }
        }
        let logps: Vec<_> = logps.into_iter().map(|row| row.expect("packing loses no row")).collect();
        let everything: Vec<usize> = (0..self.rows.len()).collect();
        let statistics = self.statistics(&logps)?;
        let head = self.head(&everything, &logps, &statistics)?;
        let mut outcome = Outcome::default();
        outcome.add(&logps, &head);
        self.add_statistics(&mut outcome, &statistics);
        Ok(outcome)
    }

    /// The rows of the largest forward pass, and whether it is the only one of the batch. With [`Role::Gradient`] those of training,
    /// with [`Role::Detached`] those of an evaluation.
    pub(super) fn largest_pass(&self, role: Role, scoring: &Scoring<'_>) -> (Forest, bool) {
        let mismatched = self.mismatched();
        let micro_batches = self.micro_batches(&mismatched);
        let alone = micro_batches.len() == 1;
        let with_mismatched = if alone || role == Role::Detached { &mismatched[..] } else { &[] };
        let tokens = |members: &&Vec<usize>| self.tokens(members, with_mismatched);
        let largest = micro_batches.iter().max_by_key(tokens).map_or(&[][..], |members| &members[..]);
        (scoring.forest(&self.trees(largest, with_mismatched, role)), alone)
    }

    /// Mismatched answers of all rows, if the objective reads them.
    fn mismatched(&self) -> Vec<&[u32]> {
        match self.objective.coupling() {
            Coupling::MismatchedRows => mismatched_answers(self.rows, self.max_length),
            Coupling::None | Coupling::WholeBatch => Vec::new(),
        }
    }

    fn micro_batches(&self, mismatched: &[&[u32]]) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = (0..self.rows.len()).map(|row| self.tokens(&[row], mismatched)).collect();
        if lengths.iter().sum::<usize>() <= self.micro_batch_tokens {
            return vec![(0..self.rows.len()).collect()];
        }
        pack(&lengths, self.micro_batch_tokens)
    }

    /// Tokens of the trees of some rows, with their mismatched answers where there are any.
    fn tokens(&self, members: &[usize], mismatched: &[&[u32]]) -> usize {
        members.iter().map(|&row| self.rows[row].tree_tokens() + mismatched.get(row).map_or(0, |ids| ids.len())).sum()
    }

    /// The trees of some rows; a row's mismatched answer is its last branch.
    fn trees<'b>(&'b self, members: &[usize], mismatched: &[&'b [u32]], role: Role) -> Vec<Tree<'b>> {
        let tree = |&member: &usize| {
            let row = &self.rows[member];
            let own = row.answers.iter().map(|answer| Branch::of(answer, role));
            let other = mismatched.get(member).map(|ids| Branch::all_scored(ids, Role::Detached));
            Tree { prompt: &row.prompt, branches: own.chain(other).collect() }
        };
        members.iter().map(tree).collect()
    }

    /// The numbers of the rows of one forward pass over [`Batch::trees`].
    fn logps(&self, members: &[usize], forward: &Forward) -> Vec<RowLogps> {
        let mut scored = forward.answers().iter();
        let with_mismatched = forward.answers().len() > members.iter().map(|&m| self.rows[m].answers.len()).sum();
        members
            .iter()
            .map(|&member| {
                let row = &self.rows[member];
                let mut numbers = RowLogps {
                    policy: Vec::new(),
                    reference: Vec::new(),
                    lens: row.answers.iter().map(Answer::scored_tokens).collect(),
                    target: target(&row.target),
                    mismatched: None,
                };
                for scored in scored.by_ref().take(row.answers.len()) {
                    numbers.policy.push(forward.sum(&scored.policy));
                    numbers.reference.extend(scored.reference.as_ref().map(|range| forward.sum(range)));
                }
                if with_mismatched && let Some(scored) = scored.next() {
                    numbers.mismatched = Some(Mismatched {
                        policy: forward.sum(&scored.policy),
                        reference: scored.reference.as_ref().map_or(0.0, |range| forward.sum(range)),
                    });
                }
                numbers
            })
            .collect()
    }

    /// Statistics of a loss that reads mismatched answers, from a pass over those alone; none for an uncoupled loss.
    fn statistics_of_mismatched(
        &self,
        scoring: &Scoring<'_>,
        dropout: Option<Dropout>,
        micro_batches: &[Vec<usize>],
        mismatched: &[&[u32]],
    ) -> Result<Statistics, TrainError> {
        if mismatched.is_empty() {
            return Ok(Statistics::default());
        }
        let mut rows: Vec<RowLogps> = self
            .rows
            .iter()
            .map(|row| RowLogps {
                policy: Vec::new(),
                reference: Vec::new(),
                lens: Vec::new(),
                target: target(&row.target),
                mismatched: None,
            })
            .collect();
        for members in micro_batches {
            let trees: Vec<Tree<'_>> = members
                .iter()
                .map(|&member| Tree {
                    prompt: &self.rows[member].prompt,
                    branches: vec![Branch::all_scored(mismatched[member], Role::Detached)],
                })
                .collect();
            // in the tree of the whole row, the mismatched answer comes after the row's own
            let own = |row: usize| self.rows[row].answers.iter().map(|answer| answer.kept).sum();
            let forward = scoring.forward(&trees, Mode::Inference, step_dropout(dropout, members, own), 0)?;
            for (&member, scored) in members.iter().zip(forward.answers()) {
                rows[member].mismatched = Some(Mismatched {
                    policy: forward.sum(&scored.policy),
                    reference: scored.reference.as_ref().map_or(0.0, |range| forward.sum(range)),
                });
            }
        }
        self.statistics(&rows)
    }

    fn statistics(&self, rows: &[RowLogps]) -> Result<Statistics, TrainError> {
        let everything: Vec<usize> = (0..rows.len()).collect();
        self.objective.statistics(rows).map_err(|error| self.head_error(&everything, error))
    }

    fn head(&self, members: &[usize], rows: &[RowLogps], statistics: &Statistics) -> Result<Head, TrainError> {
        self.objective.head(rows, statistics, self.rows.len()).map_err(|error| self.head_error(members, error))
    }

    /// Names the data row that an error of the head is about.
    fn head_error(&self, members: &[usize], error: HeadError) -> TrainError {
        match error {
            HeadError::NonFinite { row, what, value } => TrainError::NonFinite {
                step: self.step,
                what: format!("{what} ({value})"),
                rows: describe(&self.rows[members[row]]),
            },
            HeadError::BatchTooSmall { loss, .. } => TrainError::BatchOfOne { loss: loss.to_owned() },
        }
    }

    fn add_statistics(&self, outcome: &mut Outcome, statistics: &Statistics) {
        for (name, value) in statistics.iter() {
            if name == "kl" {
                outcome.preferences.add_kl(value, self.rows.len());
            }
        }
    }
}

/// Dropout of a pass over the trees of some rows of a step; `left_out(row)` as in [`TreeOfStep`].
fn step_dropout(dropout: Option<Dropout>, members: &[usize], left_out: impl Fn(usize) -> usize) -> Option<StepDropout> {
    let trees = || members.iter().map(|&row| TreeOfStep { row, left_out: left_out(row) }).collect();
    dropout.map(|dropout| StepDropout { dropout, trees: trees() })
}

/// A row as the user can find it again.
pub fn describe(row: &EncodedRow) -> String {
    match &row.id {
        Some(id) => format!("row {} (id {id})", row.row),
        None => format!("row {}", row.row),
    }
}

fn target(target: &Target) -> RowTarget {
    match target {
        Target::Pair => RowTarget::Pair,
        Target::Label(label) => RowTarget::Label(*label),
        Target::Rewards(_) | Target::Sequence => {
            unreachable!("no loss of the registry takes scored answers or sequences: the data was opened for the loss")
        }
    }
}

/// Sends the head's derivatives back through the answers that have a gradient: each row's own, not its mismatched one.
fn backward(forward: Forward, head: &Head, grads: &mut ParamGrads) -> Result<(), TrainError> {
    let mut scored = forward.answers().to_vec().into_iter();
    let extra = forward.answers().len() > head.d_policy.iter().map(Vec::len).sum();
    let mut derivatives = Vec::new();
    for row in &head.d_policy {
        derivatives.extend(scored.by_ref().map(|scored| scored.policy).zip(row.iter().copied()).take(row.len()));
        if extra {
            scored.next();
        }
    }
    Ok(forward.backward(derivatives, grads)?)
}
