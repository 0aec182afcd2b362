//! Plans the forward passes of an optimiser step, or of a batch that is only scored.
//!
//! A plan is made from lengths alone. [`Batch`](super::Batch) runs it, and the memory plan counts it.

use super::forest::{Branch, Role, Tree};
use crate::objective::Coupling;
use align_data::{EncodedRow, Target, pack};
use std::ops::Range;

/// Lengths of a row, in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowTokens {
    /// Of its prompt.
    pub prompt: usize,
    /// Of the kept part of each answer.
    pub answers: Vec<usize>,
    /// Of the mismatched answer that follows the prompt; 0 if there is none.
    pub mismatched: usize,
    /// Whether its answers may be split over several passes. Scored answers may; those of a pair stay together.
    pub separable: bool,
}

/// The part of a row that one pass computes: the prompt with all or some of the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Place of the row in the step.
    pub row: usize,
    /// Places of the answers in the row.
    pub answers: Range<usize>,
}

/// Which answers follow the prompts in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// Those of the pieces.
    Own,
    /// Those of the pieces, and after them the mismatched answer of the row.
    OwnAndMismatched,
    /// The mismatched answers alone.
    Mismatched,
}

/// Whether a pass has rows of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// Yes, if the objective reads a reference.
    Asked,
    /// No: an earlier pass of the step has computed the reference's log-probs.
    Known,
}

/// One forward pass, and with [`Role::Gradient`] its backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPlan {
    /// The parts of the step's rows that the pass computes.
    pub pieces: Vec<Piece>,
    pub(super) answers: Answers,
    /// Role of the pieces' own answers. A mismatched answer never has a gradient.
    pub(super) role: Role,
    pub(super) reference: Reference,
}

/// Which rows the head of the objective gets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadRows {
    /// All rows of the step, once each is scored.
    Step,
    /// The rows of each pass with a gradient. Numbers that they share with the other rows of the step come from earlier passes.
    Pass,
}

/// The passes of an optimiser step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// The passes in the order in which they run. Those without a backward pass come first.
    pub passes: Vec<PassPlan>,
    pub(super) head: HeadRows,
}

impl RowTokens {
    /// Returns the lengths of a row. `mismatched` is the length of its mismatched answer, 0 if there is none.
    pub fn of(row: &EncodedRow, mismatched: usize) -> RowTokens {
        RowTokens {
            prompt: row.prompt.len(),
            answers: row.answers.iter().map(|answer| answer.kept).collect(),
            mismatched,
            separable: matches!(row.target, Target::Rewards(_)),
        }
    }

    /// Counts the tokens of the prompt and of these answers, without the mismatched one.
    pub(super) fn tree(&self, answers: Range<usize>) -> usize {
        self.prompt + self.answers[answers].iter().sum::<usize>()
    }

    pub(super) fn whole(&self) -> Range<usize> {
        0..self.answers.len()
    }

    /// Cuts the answers into ranges, one for each piece. A piece has the prompt and at least one answer, and no further answer
    /// that would make it longer than `micro_batch_tokens` tokens.
    fn cut(&self, micro_batch_tokens: usize) -> Vec<Range<usize>> {
        if !self.separable || self.tree(self.whole()) <= micro_batch_tokens {
            return vec![self.whole()];
        }
        let mut pieces = Vec::new();
        let (mut first, mut tokens) = (0, self.prompt);
        for (answer, kept) in self.answers.iter().enumerate() {
            if answer > first && tokens + kept > micro_batch_tokens {
                pieces.push(first..answer);
                (first, tokens) = (answer, self.prompt);
            }
            tokens += kept;
        }
        pieces.push(first..self.answers.len());
        pieces
    }
}

impl StepPlan {
    /// Plans the passes of an optimiser step over `rows`. The trees of a pass have at most `micro_batch_tokens` tokens, unless a
    /// single row that cannot be cut, or a single answer with its prompt, has more.
    pub fn of_step(rows: &[RowTokens], coupling: Coupling, micro_batch_tokens: usize) -> StepPlan {
        let batches = micro_batches(rows, micro_batch_tokens);
        let has_mismatched = coupling == Coupling::MismatchedRows;
        let passes = |answers, role, reference| {
            let pass = move |pieces: &Vec<Piece>| PassPlan { pieces: pieces.clone(), answers, role, reference };
            batches.iter().map(pass)
        };
        if batches.len() == 1 {
            let answers = if has_mismatched { Answers::OwnAndMismatched } else { Answers::Own };
            let passes = passes(answers, Role::Gradient, Reference::Asked).collect();
            return StepPlan { passes, head: HeadRows::Step };
        }
        let row_is_cut = |piece: &Piece| piece.answers != rows[piece.row].whole();
        if coupling == Coupling::WholeBatch || batches.iter().flatten().any(row_is_cut) {
            let scored = passes(Answers::Own, Role::Detached, Reference::Asked);
            let differentiated = passes(Answers::Own, Role::Gradient, Reference::Known);
            return StepPlan { passes: scored.chain(differentiated).collect(), head: HeadRows::Step };
        }
        let mismatched = has_mismatched.then(|| passes(Answers::Mismatched, Role::Detached, Reference::Asked));
        let own = passes(Answers::Own, Role::Gradient, Reference::Asked);
        StepPlan { passes: mismatched.into_iter().flatten().chain(own).collect(), head: HeadRows::Pass }
    }

    /// Plans the passes that score `rows` without gradients.
    pub fn of_scoring(rows: &[RowTokens], coupling: Coupling, micro_batch_tokens: usize) -> StepPlan {
        let answers = match coupling {
            Coupling::MismatchedRows => Answers::OwnAndMismatched,
            Coupling::None | Coupling::WholeBatch => Answers::Own,
        };
        let pass = |pieces| PassPlan { pieces, answers, role: Role::Detached, reference: Reference::Asked };
        let passes = micro_batches(rows, micro_batch_tokens).into_iter().map(pass).collect();
        StepPlan { passes, head: HeadRows::Step }
    }

    /// Returns the passes without a backward pass. They come first.
    pub fn before_gradients(&self) -> impl Iterator<Item = &PassPlan> {
        self.passes.iter().filter(|pass| pass.role == Role::Detached)
    }

    /// Returns the passes with a backward pass.
    pub fn with_gradient(&self) -> impl Iterator<Item = &PassPlan> {
        self.passes.iter().filter(|pass| pass.role == Role::Gradient)
    }
}

impl PassPlan {
    /// Counts the tokens of the pass's trees. `rows` are all rows of its step.
    pub fn tokens(&self, rows: &[RowTokens]) -> usize {
        let of_piece = |piece: &Piece| {
            let row = &rows[piece.row];
            match self.answers {
                Answers::Own => row.tree(piece.answers.clone()),
                Answers::OwnAndMismatched => row.tree(piece.answers.clone()) + row.mismatched,
                Answers::Mismatched => row.prompt + row.mismatched,
            }
        };
        self.pieces.iter().map(of_piece).sum()
    }

    /// Counts the tokens of the pass's answers, mismatched ones included.
    pub(super) fn answer_tokens(&self, rows: &[RowTokens]) -> usize {
        self.tokens(rows) - self.pieces.iter().map(|piece| rows[piece.row].prompt).sum::<usize>()
    }

    /// Returns the trees of the pass. `rows` are all rows of its step. `mismatched` holds the ids of each row's mismatched
    /// answer; it may be empty if the pass has none.
    pub fn trees<'a>(&self, rows: &'a [EncodedRow], mismatched: &[&'a [u32]]) -> Vec<Tree<'a>> {
        let tree = |piece: &Piece| {
            let row = &rows[piece.row];
            let own = || row.answers[piece.answers.clone()].iter().map(|answer| Branch::of(answer, self.role));
            let other = || Branch::all_scored(mismatched[piece.row], Role::Detached);
            let branches = match self.answers {
                Answers::Own => own().collect(),
                Answers::OwnAndMismatched => own().chain([other()]).collect(),
                Answers::Mismatched => vec![other()],
            };
            Tree { prompt: &row.prompt, branches }
        };
        self.pieces.iter().map(tree).collect()
    }
}

/// Returns the pieces of each pass. Separable rows that do not fit into a pass are cut into several pieces, each with the prompt.
fn micro_batches(rows: &[RowTokens], micro_batch_tokens: usize) -> Vec<Vec<Piece>> {
    let tokens = |piece: &Piece| rows[piece.row].tree(piece.answers.clone()) + rows[piece.row].mismatched;
    let everything: Vec<Piece> = rows.iter().enumerate().map(|(row, of)| Piece { row, answers: of.whole() }).collect();
    if everything.iter().map(tokens).sum::<usize>() <= micro_batch_tokens {
        return vec![everything];
    }
    let cut = |(row, of): (usize, &RowTokens)| {
        of.cut(micro_batch_tokens).into_iter().map(move |answers| Piece { row, answers })
    };
    let pieces: Vec<Piece> = rows.iter().enumerate().flat_map(cut).collect();
    let lengths: Vec<usize> = pieces.iter().map(tokens).collect();
    let passes = pack(&lengths, micro_batch_tokens);
    passes.into_iter().map(|pass| pass.into_iter().map(|piece| pieces[piece].clone()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(prompt: usize, answers: &[usize]) -> RowTokens {
        RowTokens { prompt, answers: answers.to_vec(), mismatched: 0, separable: true }
    }

    fn labelled(prompt: usize, answer: usize, mismatched: usize) -> RowTokens {
        RowTokens { prompt, answers: vec![answer], mismatched, separable: false }
    }

    fn pieces(plan: &StepPlan) -> Vec<Vec<(usize, Range<usize>)>> {
        let of = |pass: &PassPlan| pass.pieces.iter().map(|piece| (piece.row, piece.answers.clone())).collect();
        plan.passes.iter().map(of).collect()
    }

    fn kinds(plan: &StepPlan) -> Vec<(Answers, Role, Reference)> {
        plan.passes.iter().map(|pass| (pass.answers, pass.role, pass.reference)).collect()
    }

    #[test]
    fn what_fits_is_one_pass() {
        let rows = [labelled(2, 3, 4), labelled(1, 4, 3)];
        let plan = StepPlan::of_step(&rows, Coupling::MismatchedRows, 17);
        assert_eq!(kinds(&plan), [(Answers::OwnAndMismatched, Role::Gradient, Reference::Asked)]);
        assert_eq!((pieces(&plan), plan.head), (vec![vec![(0, 0..1), (1, 0..1)]], HeadRows::Step));
    }

    /// Mismatched answers count when rows are packed into passes, although they then get separate passes.
    #[test]
    fn mismatched_answers_that_do_not_fit_come_first() {
        let rows = [labelled(2, 3, 4), labelled(1, 4, 3)];
        let plan = StepPlan::of_step(&rows, Coupling::MismatchedRows, 16);
        let mismatched = (Answers::Mismatched, Role::Detached, Reference::Asked);
        let own = (Answers::Own, Role::Gradient, Reference::Asked);
        assert_eq!(kinds(&plan), [mismatched, mismatched, own, own]);
        assert_eq!(plan.head, HeadRows::Pass);
        let scoring = StepPlan::of_scoring(&rows, Coupling::MismatchedRows, 16);
        assert_eq!(kinds(&scoring), [(Answers::OwnAndMismatched, Role::Detached, Reference::Asked); 2]);
    }

    #[test]
    fn rows_that_nothing_couples_are_differentiated_as_they_come() {
        let rows = [scored(1, &[4]), scored(1, &[5]), scored(1, &[3])];
        let plan = StepPlan::of_step(&rows, Coupling::None, 10);
        assert_eq!(kinds(&plan), [(Answers::Own, Role::Gradient, Reference::Asked); 2]);
        assert_eq!((pieces(&plan), plan.head), (vec![vec![(1, 0..1)], vec![(0, 0..1), (2, 0..1)]], HeadRows::Pass));
    }

    /// If the loss needs the whole batch, or if a row is cut, passes without gradients come first. Only they ask the reference.
    #[test]
    fn what_is_coupled_is_scored_first() {
        let scored_first = [
            (Answers::Own, Role::Detached, Reference::Asked),
            (Answers::Own, Role::Detached, Reference::Asked),
            (Answers::Own, Role::Gradient, Reference::Known),
            (Answers::Own, Role::Gradient, Reference::Known),
        ];
        let whole = StepPlan::of_step(&[scored(1, &[4]), scored(1, &[5])], Coupling::WholeBatch, 10);
        assert_eq!((kinds(&whole), whole.head), (scored_first.to_vec(), HeadRows::Step));
        let cut = StepPlan::of_step(&[scored(2, &[4, 4, 4])], Coupling::None, 10);
        assert_eq!((kinds(&cut), cut.head), (scored_first.to_vec(), HeadRows::Step));
        assert_eq!(pieces(&cut)[..2], [vec![(0, 0..2)], vec![(0, 2..3)]]);
    }

    #[test]
    fn a_row_is_cut_between_answers_only() {
        assert_eq!(scored(2, &[4, 4, 9, 1, 1]).cut(10), [0..2, 2..3, 3..5]);
        assert_eq!(scored(2, &[4, 4]).cut(10), [scored(2, &[4, 4]).whole()]);
        assert_eq!(scored(20, &[4, 4]).cut(10), [0..1, 1..2]);
        let pair = RowTokens { separable: false, ..scored(2, &[40, 40]) };
        assert_eq!(pair.cut(10), [pair.whole()]);
    }
}
