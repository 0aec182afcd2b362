//! Which steps of a run may have its largest forward pass, from the lengths of their rows.

use super::evaluation::Sharing;
use super::forest::Role;
use crate::objective::Coupling;
use align_data::{Dataset, Shuffle, pack};

/// Rows whose place in the run's order is looked at for the largest forward pass. Behind them a larger one may come, which then
/// keeps fewer layers, and where that is not enough holds more than was planned.
const ROWS_LOOKED_AT: usize = 4 << 20;
/// Batches that are laid out, of those that fit one pass and of those that do not: how much a pass holds depends on more than
/// its tokens, and the lengths of some rows are bounds.
const MEASURED: usize = 8;

/// What the lengths of their rows say about some steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct StepsKnown {
    /// Steps that may contain the forward pass with the most tokens.
    pub candidates: Vec<Candidate>,
    /// Tokens of the trees of a mean step.
    pub mean_tokens: f64,
    /// Share of the tokens that are in steps with passes before those for gradients.
    pub scored_first: f64,
}

/// A step that may contain the largest forward pass.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub epoch: u64,
    pub rows: Vec<u32>,
    /// The rows whose answers follow the prompts of `rows`. `None` if they are rows of the step itself.
    pub donors: Option<Vec<u32>>,
}

/// How the rows of a step become forward passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutting {
    pub coupling: Coupling,
    pub sharing: Sharing,
    /// Rows of scored answers that do not fit into a pass are cut into several.
    pub cuts_rows: bool,
    pub micro_batch_tokens: usize,
    pub max_length: usize,
    /// With [`Role::Detached`] the passes are those of an evaluation.
    pub role: Role,
}

/// What the lengths of a step's rows say.
struct Bound {
    /// Most tokens of its largest pass.
    tokens: usize,
    alone: bool,
    /// Whether there are passes before those for gradients.
    scored_first: bool,
}

impl Cutting {
    /// `donors` are the rows whose answers follow the prompts, for a loss with mismatched answers.
    fn bound(&self, data: &Dataset, batch: &[u32], donors: &[u32]) -> Bound {
        let lengths = |place: usize| data.lengths(batch[place] as usize);
        let own: Vec<usize> = (0..batch.len()).map(|place| lengths(place).tree).collect();
        let mismatched =
            |place: usize| donors.get(place).map_or(0, |&donor| self.mismatched(data, batch[place], donor));
        let whole = |place: usize| own[place] + mismatched(place);
        let whole: Vec<usize> = (0..batch.len()).map(whole).collect();
        let all: usize = whole.iter().sum();
        if all <= self.micro_batch_tokens {
            return Bound { tokens: all, alone: true, scored_first: false };
        }
        let longest = own.iter().copied().max().unwrap_or(0);
        let row_is_cut = self.cuts_rows && longest > self.micro_batch_tokens;
        let tokens = match row_is_cut {
            // of pieces, none has more than a pass may, or it is one answer
            true => self.micro_batch_tokens.max(longest.min(self.max_length)),
            false => {
                let counted = if self.role == Role::Gradient { &own } else { &whole };
                let tokens = |members: &Vec<usize>| members.iter().map(|&member| counted[member]).sum();
                pack(&whole, self.micro_batch_tokens).iter().map(tokens).max().unwrap_or(0)
            }
        };
        Bound { tokens, alone: false, scored_first: row_is_cut || self.coupling != Coupling::None }
    }

    /// Most tokens of the mismatched answer of a row.
    fn mismatched(&self, data: &Dataset, row: u32, donor: u32) -> usize {
        let donor = data.lengths(donor as usize);
        let room = self.max_length.saturating_sub(data.lengths(row as usize).prompt);
        // what did not fit behind its own prompt is there for this one
        if donor.tree >= self.max_length { room } else { room.min(donor.tree - donor.prompt) }
    }
}

/// What is known of `steps` steps in the order of the run.
pub(super) fn steps_known(
    data: &Dataset,
    shuffle: Shuffle,
    steps: u64,
    cut: BatchCut,
    cutting: &Cutting,
) -> StepsKnown {
    let (mut alone, mut split) = (Top::default(), Top::default());
    let (mut all_tokens, mut first_tokens, mut looked_at) = (0, 0, 0u64);
    let (mut steps, mut rows_left) = (steps, ROWS_LOOKED_AT);
    let mut epoch = 0;
    while steps > 0 && rows_left > 0 {
        let order = data.order(shuffle, epoch);
        let has_donors = cutting.coupling == Coupling::MismatchedRows;
        let of_set = (has_donors && cutting.sharing == Sharing::Set).then(|| data.donors(&order));
        let mut first = 0;
        for batch in cut.batches(&order) {
            let tokens: usize = batch.iter().map(|&row| data.lengths(row as usize).tree).sum();
            let of_set = of_set.as_ref().map(|donors| donors[first..first + batch.len()].to_vec());
            first += batch.len();
            let of_batch = if has_donors && of_set.is_none() { data.donors(batch) } else { Vec::new() };
            let bound = cutting.bound(data, batch, of_set.as_ref().unwrap_or(&of_batch));
            all_tokens += tokens;
            first_tokens += if bound.scored_first { tokens } else { 0 };
            looked_at += 1;
            let candidate = || Candidate { epoch, rows: batch.to_vec(), donors: of_set };
            if bound.alone { &mut alone } else { &mut split }.add(bound.tokens, batch, candidate);
            rows_left = rows_left.saturating_sub(batch.len());
            steps -= 1;
            if steps == 0 || rows_left == 0 {
                break;
            }
        }
        epoch += 1;
    }
    StepsKnown {
        candidates: alone.0.into_iter().chain(split.0).map(|(_, candidate)| candidate).collect(),
        mean_tokens: all_tokens as f64 / looked_at.max(1) as f64,
        scored_first: first_tokens as f64 / all_tokens.max(1) as f64,
    }
}

/// The [`MEASURED`] largest batches, with their bound, the largest first.
#[derive(Default)]
struct Top(Vec<(usize, Candidate)>);

impl Top {
    fn add(&mut self, bound: usize, batch: &[u32], candidate: impl FnOnce() -> Candidate) {
        let place = self.0.partition_point(|(tokens, _)| *tokens >= bound);
        // the same rows come in every epoch, in files' order even together
        if place < MEASURED && !self.0.iter().any(|(_, known)| known.rows == batch) {
            self.0.insert(place, (bound, candidate()));
            self.0.truncate(MEASURED);
        }
    }
}

/// How the rows of an epoch become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchCut {
    pub batch_size: usize,
    pub single_last: SingleLast,
}

/// What becomes of a last batch of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SingleLast {
    Kept,
    LeftOut,
    /// It joins the batch before it.
    Joined,
}

impl BatchCut {
    pub(super) fn batches<'o>(&self, order: &'o [u32]) -> Vec<&'o [u32]> {
        let mut batches: Vec<&[u32]> = order.chunks(self.batch_size).collect();
        if batches.last().is_none_or(|last| last.len() != 1) {
            return batches;
        }
        match self.single_last {
            SingleLast::Kept => {}
            SingleLast::LeftOut => {
                batches.pop();
            }
            SingleLast::Joined if batches.len() > 1 => {
                batches.truncate(batches.len() - 2);
                batches.push(&order[batches.len() * self.batch_size..]);
            }
            SingleLast::Joined => {}
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_data::{Encoder, OnBadRow, RowKind};
    use serde_json::{Value, json};
    use std::path::Path;

    fn data(rows: &[Value], kind: RowKind, max_length: usize) -> Dataset {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/tiny-llama/model");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let encoder = Encoder::from_model(&model, None, max_length, 512).unwrap();
        Dataset::open(&[path], encoder, kind, OnBadRow::Error).unwrap()
    }

    fn known(data: &Dataset, batch_size: usize, cutting: &Cutting) -> StepsKnown {
        let cut = BatchCut { batch_size, single_last: SingleLast::Kept };
        steps_known(data, Shuffle::Off, data.len().div_ceil(batch_size) as u64, cut, cutting)
    }

    /// The row that is cut into pieces has the most tokens and not the largest pass.
    #[test]
    fn a_row_in_pieces_counts_as_its_largest_piece() {
        let row =
            |n: usize| json!({"prompt": "p", "completions": ["on ".repeat(n), "no ".repeat(n)], "rewards": [1, 0]});
        let data = data(&[row(9), row(3), row(40), row(5)], RowKind::Scored, 64);
        let tree = |row: usize| data.lengths(row).tree;
        let longest = tree(2);
        let cutting = Cutting {
            coupling: Coupling::None,
            sharing: Sharing::Batch,
            cuts_rows: true,
            micro_batch_tokens: longest - 1,
            max_length: 64,
            role: Role::Gradient,
        };
        assert_eq!(cutting.bound(&data, &[2], &[]).tokens, longest - 1);
        assert!(cutting.bound(&data, &[2], &[]).scored_first && !cutting.bound(&data, &[0, 1], &[]).scored_first);
        let known = known(&data, 1, &cutting);
        let all: usize = (0..4).map(tree).sum();
        assert_eq!(known.mean_tokens, all as f64 / 4.0);
        assert_eq!(known.scored_first, longest as f64 / all as f64);
        // those that fit one pass first, the largest of them at the head
        let candidate = |row: u32| Candidate { epoch: 0, rows: vec![row], donors: None };
        assert_eq!(known.candidates, [0, 3, 1, 2].map(candidate));
        let uncut = Cutting { cuts_rows: false, ..cutting };
        assert_eq!(uncut.bound(&data, &[2], &[]).tokens, longest);
    }

    /// The passes of a split batch hold the rows alone, in an evaluation the mismatched answers too; and what was cut behind
    /// its own prompt may be longer behind another.
    #[test]
    fn mismatched_answers_count_where_they_are_in_the_pass() {
        let row = |prompt: usize, n: usize| json!({"prompt": "so ".repeat(prompt), "completion": "on ".repeat(n), "label": true});
        let data = data(&[row(1, 20), row(30, 4), row(30, 90), row(1, 3)], RowKind::Labelled, 64);
        let tree = |row: usize| data.lengths(row).tree;
        let answer = |row: usize| tree(row) - data.lengths(row).prompt;
        let of = |micro_batch_tokens: usize, role: Role, batch: &[u32]| {
            let cutting = Cutting {
                coupling: Coupling::MismatchedRows,
                sharing: Sharing::Batch,
                cuts_rows: false,
                micro_batch_tokens,
                max_length: 64,
                role,
            };
            let bound = cutting.bound(&data, batch, &data.donors(batch));
            (bound.tokens, bound.alone)
        };
        let both = tree(0) + answer(1) + tree(1) + answer(0).min(64 - data.lengths(1).prompt);
        assert_eq!(of(both, Role::Gradient, &[0, 1]), (both, true));
        assert_eq!(of(both - 1, Role::Gradient, &[0, 1]), (tree(0).max(tree(1)), false));
        let (first, second) = (tree(0) + answer(1), tree(1) + answer(0).min(64 - data.lengths(1).prompt));
        assert_eq!(of(both - 1, Role::Detached, &[0, 1]), (first.max(second), false));
        // row 2 was cut, and fills row 3 up
        assert_eq!(tree(2), 64);
        assert_eq!(
            of(4096, Role::Gradient, &[2, 3]).0,
            64 + answer(3).min(64 - data.lengths(2).prompt) + tree(3) + 64 - data.lengths(3).prompt
        );
    }
}
