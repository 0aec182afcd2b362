//! One optimiser step: forward and backward passes over micro-batches, then the update.
//!
//! The mean of the objective is over the rows of the step, whatever the micro-batches. A loss whose rows share statistics
//! (KTO's reference point, say), and the answers of a row that does not fit one forward pass, get what they share from a first
//! pass without gradients when the step does not fit one forward pass.

use super::error::TrainError;
use super::forest::{Branch, Forest, Role, Scored, Tree};
use super::metrics::PreferenceSums;
use super::pieces::{piece_tokens, pieces};
use super::scoring::{Forward, Scoring, StepDropout, TreeOfStep};
use crate::objective::{
    BatchTotals, Coupling, Head, HeadError, History, Mismatched, Objective, RowLogps, RowTarget, Statistics, Tails,
    wpo_weight,
};
use align_data::{Answer, EncodedRow, Mismatch, RowKind, Target, donors, mismatched_answers, pack};
use align_engine::autograd::{Mode, ParamGrads};
use align_engine::model::Gradients;
use align_engine::pass::Dropout;
use std::ops::Range;

/// What the passes of a step share.
pub struct Batch<'a> {
    pub objective: &'a Objective,
    pub rows: &'a [EncodedRow],
    pub max_length: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Number of the step, from 1, for messages.
    pub step: u64,
    /// What the run remembers from the steps before.
    pub history: History,
    /// For a loss with mismatched answers.
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

/// A row, or some of its answers: what one forward pass takes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    row: usize,
    answers: Range<usize>,
}

/// What a step or an evaluated batch gives.
#[derive(Debug, Default)]
pub struct Outcome {
    pub loss: f64,
    pub preferences: PreferenceSums,
    /// Pairs for which the loss has no gradient.
    pub saturated: usize,
    /// Pairs whose gradient a bound of the formula took away.
    pub clipped: usize,
    /// Rows of scored answers whose rewards say nothing to the loss.
    pub undecided: usize,
    /// What the run remembers once the step is made.
    pub history: History,
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
        self.clipped += head.clipped.unwrap_or(0);
        self.undecided += head.undecided;
    }
}

/// Decides how many layers keep their activations in a forward and backward pass over some rows, the adapter's gradients being
/// there before it or not.
pub type LayersKept<'a> = &'a dyn Fn(&Forest, Gradients) -> Option<usize>;

/// The forward passes of a batch, laid out and not made.
#[derive(Debug)]
pub(super) struct Passes {
    /// Those with a backward pass, each with the rows of the reference that its answers need.
    pub with_gradient: Vec<Forest>,
    /// Whether the reference's numbers are known before them, so that they run without its rows.
    pub reference_is_known: bool,
    /// Those without a backward pass: of an evaluation, or before the others for what their answers share.
    pub without_gradient: Vec<Forest>,
}

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
        let mut outcome = Outcome { micro_batches: micro_batches.len(), ..Outcome::default() };
        let masks = |pieces: &[Piece]| step_dropout(dropout, self.trees_of_step(pieces));

        if let [pieces] = &micro_batches[..] {
            let trees = self.trees(pieces, &mismatched, Role::Gradient);
            let kept = outcome.kept(layers_kept(&scoring.forest(&trees), Gradients::Fresh));
            let forward = scoring.forward(&trees, Mode::Record, masks(pieces), kept)?;
            let mut logps = self.rows_without_logps();
            self.read(pieces, &forward, &mut logps);
            let statistics = self.statistics(&logps)?;
            let everything: Vec<usize> = (0..self.rows.len()).collect();
            let head = self.head(&everything, &logps, &statistics)?;
            outcome.add(&logps, &head);
            self.add_statistics(&mut outcome, &statistics);
            self.backward(forward, pieces, &everything, &head, grads)?;
            return Ok(outcome);
        }
        if self.scores_all_first(&micro_batches) {
            let mut logps = self.rows_without_logps();
            for pieces in &micro_batches {
                let trees = self.trees(pieces, &[], Role::Detached);
                let forward = scoring.forward(&trees, Mode::Inference, masks(pieces), 0)?;
                self.read(pieces, &forward, &mut logps);
            }
            let everything: Vec<usize> = (0..self.rows.len()).collect();
            let statistics = self.statistics(&logps)?;
            let head = self.head(&everything, &logps, &statistics)?;
            outcome.add(&logps, &head);
            self.add_statistics(&mut outcome, &statistics);
            // what the reference says is known
            let policy = scoring.policy_alone();
            for pieces in &micro_batches {
                let trees = self.trees(pieces, &[], Role::Gradient);
                let kept = outcome.kept(layers_kept(&policy.forest(&trees), Gradients::There));
                let forward = policy.forward(&trees, Mode::Record, masks(pieces), kept)?;
                self.backward(forward, pieces, &everything, &head, grads)?;
            }
            return Ok(outcome);
        }
        let statistics = self.statistics_of_mismatched(scoring, dropout, &micro_batches, &mismatched)?;
        for pieces in &micro_batches {
            let trees = self.trees(pieces, &[], Role::Gradient);
            let kept = outcome.kept(layers_kept(&scoring.forest(&trees), Gradients::There));
            let forward = scoring.forward(&trees, Mode::Record, masks(pieces), kept)?;
            let mut all = self.rows_without_logps();
            self.read(pieces, &forward, &mut all);
            let members: Vec<usize> = pieces.iter().map(|piece| piece.row).collect();
            let logps: Vec<RowLogps> = members.iter().map(|&member| all[member].clone()).collect();
            let head = self.head(&members, &logps, &statistics)?;
            outcome.add(&logps, &head);
            self.backward(forward, pieces, &members, &head, grads)?;
        }
        self.add_statistics(&mut outcome, &statistics);
        Ok(outcome)
    }

    /// Loss and rewards of the batch, without gradients.
    ///
    /// # Errors
    /// As [`Batch::gradients`].
    pub fn evaluate(&self, scoring: &Scoring<'_>) -> Result<Outcome, TrainError> {
        let logps = self.score(scoring)?;
        let everything: Vec<usize> = (0..self.rows.len()).collect();
        let statistics = self.statistics(&logps)?;
        let head = self.head(&everything, &logps, &statistics)?;
        let mut outcome = Outcome::default();
        outcome.add(&logps, &head);
        self.add_statistics(&mut outcome, &statistics);
        Ok(outcome)
    }

    /// Scores the rows, without gradients.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn score(&self, scoring: &Scoring<'_>) -> Result<Vec<RowLogps>, TrainError> {
        let mismatched = self.mismatched();
        let mut logps = self.rows_without_logps();
        for pieces in self.micro_batches(&mismatched) {
            let trees = self.trees(&pieces, &mismatched, Role::Detached);
            let forward = scoring.forward(&trees, Mode::Inference, None, 0)?;
            self.read(&pieces, &forward, &mut logps);
        }
        Ok(logps)
    }

    /// The forward passes of a step with [`Role::Gradient`], of an evaluation with [`Role::Detached`].
    pub(super) fn passes(&self, role: Role, scoring: &Scoring<'_>) -> Passes {
        let mismatched = self.mismatched();
        let micro_batches = self.micro_batches(&mismatched);
        let forests = |mismatched: &[&[u32]], role: Role| -> Vec<Forest> {
            micro_batches.iter().map(|pieces| scoring.forest(&self.trees(pieces, mismatched, role))).collect()
        };
        if role == Role::Detached {
            let without_gradient = forests(&mismatched, role);
            return Passes { with_gradient: Vec::new(), reference_is_known: false, without_gradient };
        }
        let reference_is_known = micro_batches.len() > 1 && self.scores_all_first(&micro_batches);
        let without_gradient = match micro_batches.len() {
            1 => Vec::new(),
            _ if reference_is_known => forests(&[], Role::Detached),
            _ if mismatched.is_empty() => Vec::new(),
            _ => {
                let forest = |pieces: &Vec<Piece>| scoring.forest(&self.mismatched_trees(pieces, &mismatched));
                micro_batches.iter().map(forest).collect()
            }
        };
        let with_mismatched = if micro_batches.len() == 1 { &mismatched[..] } else { &[] };
        Passes { with_gradient: forests(with_mismatched, role), reference_is_known, without_gradient }
    }

    /// Whether an answer's derivative depends on answers of other passes: then all are scored before the first backward pass.
    fn scores_all_first(&self, micro_batches: &[Vec<Piece>]) -> bool {
        self.objective.coupling() == Coupling::WholeBatch
            || micro_batches.iter().flatten().any(|piece| piece.answers.len() < self.rows[piece.row].answers.len())
    }

    /// Mismatched answers of all rows, if the objective reads them.
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

    /// What each forward pass takes. Scored answers to one prompt that do not fit into a pass are cut into several, with the
    /// prompt in each.
    fn micro_batches(&self, mismatched: &[&[u32]]) -> Vec<Vec<Piece>> {
        let whole = |row: usize| Piece { row, answers: 0..self.rows[row].answers.len() };
        let everything: Vec<Piece> = (0..self.rows.len()).map(whole).collect();
        if self.tokens(&everything, mismatched) <= self.micro_batch_tokens {
            return vec![everything];
        }
        let cut = |row: usize| {
            let pieces = pieces(&self.rows[row], self.micro_batch_tokens);
            pieces.into_iter().map(move |answers| Piece { row, answers })
        };
        let pieces: Vec<Piece> = (0..self.rows.len()).flat_map(cut).collect();
        let lengths: Vec<usize> =
            pieces.iter().map(|piece| self.tokens(std::slice::from_ref(piece), mismatched)).collect();
        let passes = pack(&lengths, self.micro_batch_tokens);
        passes.into_iter().map(|pass| pass.into_iter().map(|piece| pieces[piece].clone()).collect()).collect()
    }

    /// Tokens of the trees of some pieces, with their mismatched answers where there are any.
    fn tokens(&self, pieces: &[Piece], mismatched: &[&[u32]]) -> usize {
        let of_piece = |piece: &Piece| {
            piece_tokens(&self.rows[piece.row], piece.answers.clone())
                + mismatched.get(piece.row).map_or(0, |ids| ids.len())
        };
        pieces.iter().map(of_piece).sum()
    }

    /// The trees of some pieces; a row's mismatched answer is its last branch.
    fn trees<'b>(&'b self, pieces: &[Piece], mismatched: &[&'b [u32]], role: Role) -> Vec<Tree<'b>> {
        let tree = |piece: &Piece| {
            let row = &self.rows[piece.row];
            let own = row.answers[piece.answers.clone()].iter().map(|answer| Branch::of(answer, role));
            let other = mismatched.get(piece.row).map(|ids| Branch::all_scored(ids, Role::Detached));
            Tree { prompt: &row.prompt, branches: own.chain(other).collect() }
        };
        pieces.iter().map(tree).collect()
    }

    /// The mismatched answers of some rows behind their prompts.
    fn mismatched_trees<'b>(&'b self, pieces: &[Piece], mismatched: &[&'b [u32]]) -> Vec<Tree<'b>> {
        let tree = |piece: &Piece| Tree {
            prompt: &self.rows[piece.row].prompt,
            branches: vec![Branch::all_scored(mismatched[piece.row], Role::Detached)],
        };
        pieces.iter().map(tree).collect()
    }

    /// What the trees of some pieces are in the step.
    fn trees_of_step(&self, pieces: &[Piece]) -> Vec<TreeOfStep> {
        let of_piece = |piece: &Piece| {
            let before = &self.rows[piece.row].answers[..piece.answers.start];
            TreeOfStep { row: piece.row, left_out: before.iter().map(|answer| answer.kept).sum() }
        };
        pieces.iter().map(of_piece).collect()
    }

    /// What is known of the rows before any log-prob; these are NaN.
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

    /// Puts the numbers of a forward pass over [`Batch::trees`] into those of the rows.
    fn read(&self, pieces: &[Piece], forward: &Forward, rows: &mut [RowLogps]) {
        for ScoredPiece { piece, answers, mismatched } in scored_pieces(pieces, forward.answers()) {
            let numbers = &mut rows[piece.row];
            let shared = self.shared_len(piece.row);
            for (answer, scored) in piece.answers.clone().zip(&answers) {
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
            if let (true, [chosen, rejected]) = (self.objective.weighting(), &answers[..]) {
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

    /// Tokens of a row's shortest answer.
    fn shared_len(&self, row: usize) -> usize {
        self.rows[row].answers.iter().map(|answer| answer.kept).min().unwrap_or(0)
    }

    /// Statistics of a loss that reads mismatched answers, from a pass over those alone; none for an uncoupled loss.
    fn statistics_of_mismatched(
        &self,
        scoring: &Scoring<'_>,
        dropout: Option<Dropout>,
        micro_batches: &[Vec<Piece>],
        mismatched: &[&[u32]],
    ) -> Result<Statistics, TrainError> {
        let mut rows = self.rows_without_logps();
        if mismatched.is_empty() {
            return self.statistics(&rows);
        }
        for pieces in micro_batches {
            let trees = self.mismatched_trees(pieces, mismatched);
            // in the tree of the whole row, the mismatched answer comes after the row's own
            let own = |row: usize| self.rows[row].answers.iter().map(|answer| answer.kept).sum();
            let of_step = pieces.iter().map(|piece| TreeOfStep { row: piece.row, left_out: own(piece.row) }).collect();
            let forward = scoring.forward(&trees, Mode::Inference, step_dropout(dropout, of_step), 0)?;
            for (piece, scored) in pieces.iter().zip(forward.answers()) {
                rows[piece.row].mismatched = Some(Mismatched {
                    policy: forward.sum(&scored.policy),
                    reference: scored.reference.as_ref().map_or(0.0, |range| forward.sum(range)),
                });
            }
        }
        self.statistics(&rows)
    }

    fn statistics(&self, rows: &[RowLogps]) -> Result<Statistics, TrainError> {
        let everything: Vec<usize> = (0..rows.len()).collect();
        self.objective.statistics(rows, &self.history).map_err(|error| self.head_error(&everything, error))
    }

    fn head(&self, members: &[usize], rows: &[RowLogps], statistics: &Statistics) -> Result<Head, TrainError> {
        self.objective.head(rows, statistics, self.totals()).map_err(|error| self.head_error(members, error))
    }

    fn target(&self, target: &Target) -> RowTarget {
        match target {
            Target::Pair => RowTarget::Pair,
            Target::Label(label) => RowTarget::Label(*label),
            Target::Rewards(rewards) => RowTarget::Rewards(rewards.clone()),
            Target::Sequence if self.objective.data() == RowKind::Sequence => RowTarget::Sft,
            Target::Sequence => RowTarget::ReferenceData,
        }
    }

    fn totals(&self) -> BatchTotals {
        let rows: Vec<(RowTarget, Vec<usize>)> = (self.rows.iter())
            .map(|row| (self.target(&row.target), row.answers.iter().map(Answer::scored_tokens).collect()))
            .collect();
        BatchTotals::of(rows.iter().map(|(target, lens)| (target, &lens[..])))
    }

    fn head_error(&self, members: &[usize], error: HeadError) -> TrainError {
        head_error(error, self.step, |row| describe(&self.rows[members[row]]))
    }

    fn add_statistics(&self, outcome: &mut Outcome, statistics: &Statistics) {
        outcome.history = statistics.history();
        for (name, value) in statistics.iter() {
            if name == "kl" {
                outcome.preferences.add_kl(value, self.rows.len());
            }
        }
    }

    /// Sends the head's derivatives back through the answers of some pieces, whose rows are at the same place in `members` as
    /// in `head`: each row's own answers, not its mismatched one.
    fn backward(
        &self,
        forward: Forward,
        pieces: &[Piece],
        members: &[usize],
        head: &Head,
        grads: &mut ParamGrads,
    ) -> Result<(), TrainError> {
        let mut derivatives = Vec::new();
        for ScoredPiece { piece, answers, .. } in scored_pieces(pieces, forward.answers()) {
            let place = members.iter().position(|member| *member == piece.row).expect("the head is about these rows");
            let shared = self.shared_len(piece.row);
            for (answer, scored) in piece.answers.clone().zip(answers) {
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

/// What a forward pass over [`Batch::trees`] has scored of a piece.
struct ScoredPiece<'a> {
    piece: &'a Piece,
    /// Its own answers.
    answers: Vec<&'a Scored>,
    /// The mismatched answer of its row, if the pass has those.
    mismatched: Option<&'a Scored>,
}

/// The answers of a pass over some pieces, by piece.
fn scored_pieces<'a>(pieces: &'a [Piece], scored: &'a [Scored]) -> impl Iterator<Item = ScoredPiece<'a>> {
    let own: usize = pieces.iter().map(|piece| piece.answers.len()).sum();
    let with_mismatched = usize::from(scored.len() > own);
    let mut rest = scored;
    pieces.iter().map(move |piece| {
        let (of_piece, behind) = rest.split_at(piece.answers.len() + with_mismatched);
        rest = behind;
        let (answers, mismatched) = of_piece.split_at(piece.answers.len());
        ScoredPiece { piece, answers: answers.iter().collect(), mismatched: mismatched.first() }
    })
}

/// Dropout of a pass over some trees of a step.
fn step_dropout(dropout: Option<Dropout>, trees: Vec<TreeOfStep>) -> Option<StepDropout> {
    dropout.map(|dropout| StepDropout { dropout, trees })
}

/// Names the data row to which an error of the head belongs.
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

/// A row as the user can find it again.
pub fn describe(row: &EncodedRow) -> String {
    match &row.id {
        Some(id) => format!("row {} (from 0; id {id})", row.row),
        None => format!("row {} (from 0)", row.row),
    }
}
