//! Loss and gradients of one optimiser step: forward and backward passes over micro-batches. The trainer makes the update.
//!
//! The objective is a mean over the rows of the step, however the step is cut into micro-batches. If a step does not fit into one
//! forward pass, passes without gradients may come first. For a loss with statistics (such as KTO's reference point) they compute
//! what the rows share. If a row does not fit into one pass, they compute what its answers share.

use super::counted::Gradients;
use super::error::TrainError;
use super::forest::{Forest, Role, Scored, Tree};
use super::metrics::PreferenceSums;
use super::plan::{Answers, HeadRows, PassPlan, Piece, Reference, RowTokens, StepPlan};
use super::scoring::{Forward, Scoring, StepDropout, TreeOfStep};
use crate::objective::{
    BatchTotals, Coupling, Head, HeadError, History, Mismatched, Objective, RowLogps, Statistics, Tails, wpo_weight,
};
use align_data::{Answer, EncodedRow, Mismatch, RowKind, Target, donors, mismatched_answers};
use align_engine::autograd::{Mode, ParamGrads};
use align_engine::pass::Dropout;
use align_kernels::KernelError;
use std::ops::Range;

/// The rows of a step or of an evaluated batch, and everything that its passes have in common.
pub struct Batch<'a> {
    /// The objective. Its coupling decides which passes there are.
    pub objective: &'a Objective,
    /// All rows of the step, texts of the reference data included.
    pub rows: &'a [EncodedRow],
    /// Maximum number of tokens of a prompt with one answer. Mismatched answers are cut to fit.
    pub max_length: usize,
    /// Maximum number of tokens in the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Number of the step, from 1, for messages.
    pub step: u64,
    /// Running statistics of the earlier steps.
    pub history: History,
    /// Where mismatched answers come from, for a loss that reads them.
    pub donors: Donors<'a>,
}

/// The rows whose answers follow the prompts of a batch as mismatched answers.
#[derive(Debug, Clone, Copy)]
pub enum Donors<'a> {
    /// Rows of the batch itself.
    Batch(Mismatch),
    /// These rows, one for each row of the batch.
    Rows(&'a [EncodedRow]),
}

/// The result of a step or of an evaluated batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The objective's loss over the batch.
    pub loss: f64,
    /// Sums over all answers of the batch.
    pub preferences: PreferenceSums,
    /// Pairs for which the loss has no gradient.
    pub saturated: usize,
    /// Pairs whose gradient a bound of the formula removed.
    pub clipped: usize,
    /// Rows of scored answers whose rewards make no pair, so that their loss is 0.
    pub undecided: usize,
    /// Running statistics that include this batch.
    pub history: History,
    /// Forward passes with a gradient.
    pub micro_batches: usize,
    /// How many of these passes needed more memory than planned, even with all layers recomputed.
    pub beyond_plan: usize,
}

impl Outcome {
    /// Returns how many layers to keep. A pass that does not fit keeps none and is counted.
    fn kept(&mut self, layers: Option<usize>) -> usize {
        self.beyond_plan += usize::from(layers.is_none());
        layers.unwrap_or(0)
    }

    fn add(&mut self, rows: &[RowLogps], head: &Head) {
        self.loss += head.loss;
        self.preferences.add(rows, head);
        self.saturated += head.saturated;
        self.clipped += head.clipped.unwrap_or(0);
        self.undecided += head.undecided;
    }
}

/// Decides how many layers keep their activations in a forward and backward pass over some rows. `None` if the pass does not
/// fit. The second argument says whether the adapter has gradients before the pass.
pub(super) type LayersKept<'a> = &'a dyn Fn(&Forest, Gradients) -> Result<Option<usize>, KernelError>;

/// The forward passes of a batch, laid out but not run.
#[derive(Debug)]
pub(super) struct Passes {
    /// The passes with a backward pass, each with the rows of the reference that its answers need.
    pub with_gradient: Vec<Forest>,
    /// Whether the reference's log-probs are known before the passes in `with_gradient`, so that these run without rows of the
    /// reference.
    pub reference_is_known: bool,
    /// The passes without a backward pass. In an evaluation these are all passes; in a step, those that come first and compute
    /// what rows or answers share.
    pub without_gradient: Vec<Forest>,
}

impl Batch<'_> {
    /// Computes the loss of the batch, and adds its gradients to `grads`.
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
        let plan = StepPlan::of_step(&self.tokens(&mismatched), self.objective.coupling(), self.micro_batch_tokens);
        let policy = scoring.policy_alone();
        let mut outcome = Outcome { micro_batches: plan.with_gradient().count(), ..Outcome::default() };
        let mut gradients = Gradients::Fresh;
        let masks = |pass: &PassPlan| dropout.map(|dropout| StepDropout { dropout, trees: self.trees_of_step(pass) });
        let mut logps = self.rows_without_logps();
        for pass in plan.before_gradients() {
            let forward = scoring.forward(&pass.trees(self.rows, &mismatched), Mode::Inference, masks(pass), 0)?;
            self.read(pass, &forward, &mut logps);
        }
        let mut record = |pass: &PassPlan, outcome: &mut Outcome| -> Result<Forward, TrainError> {
            let scoring = match pass.reference {
                Reference::Asked => scoring,
                Reference::Known => &policy,
            };
            let trees = pass.trees(self.rows, &mismatched);
            let kept = outcome.kept(layers_kept(&scoring.forest(&trees), gradients)?);
            gradients = Gradients::There;
            Ok(scoring.forward(&trees, Mode::Record, masks(pass), kept)?)
        };
        match plan.head {
            HeadRows::Step => {
                let everything = self.everything();
                let mut of_step = None;
                for pass in plan.with_gradient() {
                    let forward = record(pass, &mut outcome)?;
                    if pass.reference == Reference::Asked {
                        self.read(pass, &forward, &mut logps);
                    }
                    let head = match &of_step {
                        Some(head) => head,
                        None => of_step.insert(self.head_of_step(&logps, &mut outcome)?),
                    };
                    self.backward(forward, pass, &everything, head, grads)?;
                }
            }
            HeadRows::Pass => {
                let statistics = self.statistics(&logps)?;
                for pass in plan.with_gradient() {
                    let forward = record(pass, &mut outcome)?;
                    self.read(pass, &forward, &mut logps);
                    let members: Vec<usize> = pass.pieces.iter().map(|piece| piece.row).collect();
                    let logps: Vec<RowLogps> = members.iter().map(|&member| logps[member].clone()).collect();
                    let head = self.head(&members, &logps, &statistics)?;
                    outcome.add(&logps, &head);
                    self.backward(forward, pass, &members, &head, grads)?;
                }
                self.add_statistics(&mut outcome, &statistics);
            }
        }
        Ok(outcome)
    }

    /// Computes loss and rewards of the batch, without a backward pass.
    ///
    /// # Errors
    /// As [`Batch::gradients`].
    pub fn evaluate(&self, scoring: &Scoring<'_>) -> Result<Outcome, TrainError> {
        let mut outcome = Outcome::default();
        self.head_of_step(&self.score(scoring)?, &mut outcome)?;
        Ok(outcome)
    }

    /// Scores the rows, without a backward pass.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn score(&self, scoring: &Scoring<'_>) -> Result<Vec<RowLogps>, TrainError> {
        let mismatched = self.mismatched();
        let plan = StepPlan::of_scoring(&self.tokens(&mismatched), self.objective.coupling(), self.micro_batch_tokens);
        let mut logps = self.rows_without_logps();
        for pass in &plan.passes {
            let forward = scoring.forward(&pass.trees(self.rows, &mismatched), Mode::Inference, None, 0)?;
            self.read(pass, &forward, &mut logps);
        }
        Ok(logps)
    }

    /// Lays out the forward passes with `layout`. For [`Role::Gradient`] they are those of a step, for [`Role::Detached`] those of
    /// an evaluation.
    pub(super) fn passes(&self, role: Role, layout: impl Fn(&[Tree<'_>]) -> Forest) -> Passes {
        let mismatched = self.mismatched();
        let (rows, coupling) = (self.tokens(&mismatched), self.objective.coupling());
        let plan = match role {
            Role::Gradient => StepPlan::of_step(&rows, coupling, self.micro_batch_tokens),
            Role::Detached => StepPlan::of_scoring(&rows, coupling, self.micro_batch_tokens),
        };
        let forest = |pass: &PassPlan| layout(&pass.trees(self.rows, &mismatched));
        Passes {
            with_gradient: plan.with_gradient().map(forest).collect(),
            reference_is_known: plan.with_gradient().any(|pass| pass.reference == Reference::Known),
            without_gradient: plan.before_gradients().map(forest).collect(),
        }
    }

    /// Returns the lengths of the rows.
    fn tokens(&self, mismatched: &[&[u32]]) -> Vec<RowTokens> {
        let mismatched = |place: usize| mismatched.get(place).map_or(0, |ids| ids.len());
        self.rows.iter().enumerate().map(|(place, row)| RowTokens::of(row, mismatched(place))).collect()
    }

    fn everything(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }

    /// Returns the mismatched answers of all rows. Empty if the objective reads none.
    fn mismatched(&self) -> Vec<&[u32]> {
        match self.objective.coupling() {
            Coupling::MismatchedRows => match self.donors {
                Donors::Rows(donors) => mismatched_answers(self.rows, donors, self.max_length),
                Donors::Batch(mismatch) => {
                    let rows = self.rows;
                    let donors = donors(rows.len(), mismatch, |a, b| rows[a].prompt == rows[b].prompt);
                    mismatched_answers(rows, donors.into_iter().map(|donor| &rows[donor]), self.max_length)
                }
            },
            Coupling::None | Coupling::WholeBatch => Vec::new(),
        }
    }

    /// Returns where the trees of a pass belong in the step.
    fn trees_of_step(&self, pass: &PassPlan) -> Vec<TreeOfStep> {
        let of_piece = |piece: &Piece| {
            let answers = &self.rows[piece.row].answers;
            let before = match pass.answers {
                Answers::Own | Answers::OwnAndMismatched => &answers[..piece.answers.start],
                // in the tree of the whole row, the mismatched answer comes after the row's own
                Answers::Mismatched => &answers[..],
            };
            TreeOfStep { row: piece.row, left_out: before.iter().map(|answer| answer.kept).sum() }
        };
        pass.pieces.iter().map(of_piece).collect()
    }

    /// Returns the rows as they are before they are scored: all log-probs are NaN.
    fn rows_without_logps(&self) -> Vec<RowLogps> {
        let row = |row: &EncodedRow| {
            let n = row.answers.len();
            RowLogps {
                policy: vec![f64::NAN; n],
                reference: if self.objective.reference() { vec![f64::NAN; n] } else { Vec::new() },
                lens: row.answers.iter().map(Answer::scored_tokens).collect(),
                target: self.target(&row.target),
                tails: self.objective.tails().then_some(Tails { policy: [0.0; 2], reference: [0.0; 2] }),
                weight: row.numbers.weight_or_one(),
                policy_weight: 1.0,
                numbers: row.numbers,
                mismatched: None,
            }
        };
        self.rows.iter().map(row).collect()
    }

    /// Copies the numbers of a forward pass into `rows`.
    fn read(&self, pass: &PassPlan, forward: &Forward, rows: &mut [RowLogps]) {
        for ScoredPiece { piece, own, mismatched } in scored_pieces(pass, forward.answers()) {
            let numbers = &mut rows[piece.row];
            let shared = self.shared_len(piece.row);
            for (answer, scored) in piece.answers.clone().zip(own) {
                numbers.policy[answer] = forward.sum(&scored.policy);
                // a pass may score a reference that the objective does not read
                if let (Some(range), Some(reference)) = (&scored.reference, numbers.reference.get_mut(answer)) {
                    *reference = forward.sum(range);
                }
                if let Some(tails) = &mut numbers.tails {
                    let tail = |range: &Range<usize>| (range.start + shared).min(range.end)..range.end;
                    tails.policy[answer] = forward.sum(&tail(&scored.policy));
                    let reference = scored.reference.as_ref();
                    tails.reference[answer] = reference.map_or(0.0, |range| forward.sum(&tail(range)));
                }
            }
            if let (true, [chosen, rejected]) = (self.objective.weighting(), own) {
                let aligned = [chosen, rejected].map(|scored| {
                    let tokens = forward.tokens(&scored.policy).iter().zip(forward.log_sum_squares(&scored.policy));
                    tokens.map(|(&logp, sum_squares)| f64::from(logp) - sum_squares).collect::<Vec<_>>()
                });
                numbers.policy_weight = wpo_weight([&aligned[0], &aligned[1]]);
            }
            if let Some(scored) = mismatched {
                numbers.mismatched = Some(Mismatched {
                    policy: forward.sum(&scored.policy),
                    reference: scored.reference.as_ref().map_or(0.0, |range| forward.sum(range)),
                });
            }
        }
    }

    /// Returns the number of tokens of a row's shortest answer.
    fn shared_len(&self, row: usize) -> usize {
        self.rows[row].answers.iter().map(|answer| answer.kept).min().unwrap_or(0)
    }

    fn statistics(&self, rows: &[RowLogps]) -> Result<Statistics, TrainError> {
        self.objective.statistics(rows, &self.history).map_err(|error| self.head_error(&self.everything(), error))
    }

    /// Computes the head over all rows of the step, and adds it to `outcome`.
    fn head_of_step(&self, logps: &[RowLogps], outcome: &mut Outcome) -> Result<Head, TrainError> {
        let statistics = self.statistics(logps)?;
        let head = self.head(&self.everything(), logps, &statistics)?;
        outcome.add(logps, &head);
        self.add_statistics(outcome, &statistics);
        Ok(head)
    }

    fn head(&self, members: &[usize], rows: &[RowLogps], statistics: &Statistics) -> Result<Head, TrainError> {
        let totals = BatchTotals::of_rows(&self.rows_without_logps());
        self.objective.head(rows, statistics, totals).map_err(|error| self.head_error(members, error))
    }

    /// Returns the target that the objective reads. `None` for a text of the reference data, which accompanies rows of another
    /// kind.
    fn target(&self, target: &Target) -> Option<Target> {
        let is_item = *target != Target::Sequence || self.objective.data() == RowKind::Sequence;
        is_item.then(|| target.clone())
    }

    fn head_error(&self, members: &[usize], error: HeadError) -> TrainError {
        head_error(error, self.step, |row| describe(&self.rows[members[row]]))
    }

    fn add_statistics(&self, outcome: &mut Outcome, statistics: &Statistics) {
        outcome.history = statistics.history();
        if let Some(kl) = statistics.find("kl") {
            outcome.preferences.add_kl(kl, self.rows.len());
        }
    }

    /// Runs the backward pass of `forward` with the head's derivatives. Mismatched answers have no derivatives. A row has the
    /// same place in `members` as in `head`.
    fn backward(
        &self,
        forward: Forward,
        pass: &PassPlan,
        members: &[usize],
        head: &Head,
        grads: &mut ParamGrads,
    ) -> Result<(), TrainError> {
        let mut derivatives = Vec::new();
        for ScoredPiece { piece, own, .. } in scored_pieces(pass, forward.answers()) {
            let place = members.iter().position(|member| *member == piece.row).expect("the head is about these rows");
            let shared = self.shared_len(piece.row);
            for (answer, scored) in piece.answers.clone().zip(own) {
                let Range { start, end } = scored.policy;
                let d = head.d_policy[place][answer];
                match head.d_tails.get(place) {
                    Some(d_tails) => {
                        let middle = (start + shared).min(end);
                        derivatives.push((start..middle, d));
                        derivatives.push((middle..end, d + d_tails[answer]));
                    }
                    None => derivatives.push((start..end, d)),
                }
            }
        }
        Ok(forward.backward(derivatives, grads)?)
    }
}

/// The answers of a piece that a forward pass has scored.
struct ScoredPiece<'a> {
    piece: &'a Piece,
    /// Its own answers. Empty if the pass has only mismatched answers.
    own: &'a [Scored],
    /// The mismatched answer of its row. `None` if the pass has only own answers.
    mismatched: Option<&'a Scored>,
}

/// Returns the answers that a pass has scored, for each piece. `scored` has the answers of all pieces.
fn scored_pieces<'a>(pass: &'a PassPlan, scored: &'a [Scored]) -> impl Iterator<Item = ScoredPiece<'a>> {
    let mut rest = scored;
    pass.pieces.iter().map(move |piece| {
        let (own, mismatched) = match pass.answers {
            Answers::Own => (piece.answers.len(), 0),
            Answers::OwnAndMismatched => (piece.answers.len(), 1),
            Answers::Mismatched => (0, 1),
        };
        let (own, behind) = rest.split_at(own);
        let (mismatched, behind) = behind.split_at(mismatched);
        rest = behind;
        ScoredPiece { piece, own, mismatched: mismatched.first() }
    })
}

/// Turns an error of the head into one that names the data row. `name` describes the row at a place of the head's rows.
pub(super) fn head_error(error: HeadError, step: u64, name: impl Fn(usize) -> String) -> TrainError {
    match error {
        HeadError::NonFinite { row, what, value } => {
            TrainError::NonFinite { step, what: format!("{what} ({value})"), rows: name(row) }
        }
        HeadError::BatchTooSmall { loss, .. } => TrainError::BatchOfOne { loss: loss.to_owned() },
        HeadError::MissingColumn { row, loss, column } => {
            TrainError::MissingColumn { row: name(row), loss: loss.to_owned(), column }
        }
    }
}

/// Describes a row so that the user can find it.
pub(super) fn describe(row: &EncodedRow) -> String {
    match &row.id {
        Some(id) => format!("row {} (from 0; id {id})", row.row),
        None => format!("row {} (from 0)", row.row),
    }
}
