//! Finds the steps of a run that may have its largest forward pass, from the lengths of their rows.

use super::completions;
use super::evaluation::Sharing;
use super::forest::Role;
use super::plan::{RowTokens, StepPlan};
use crate::objective::Coupling;
use align_data::{Dataset, Shuffle};

/// How many rows, in the run's order, are searched for the largest forward pass. If a larger pass comes after them, it keeps
/// fewer layers. If that is not enough, it holds more than was planned.
const ROWS_LOOKED_AT: usize = 4 << 20;
/// How many batches of each kind are laid out. One is not enough, since what a pass holds depends on more than its tokens. There
/// are four kinds: batches that fit into one pass and batches that do not, in the first epoch and in later ones.
const MEASURED: usize = 8;
/// Maximum number of steps, besides the candidates, whose answers are looked up before the plan says that all are cached.
const LOOKED_UP: u64 = 16;

/// What the lengths of the rows tell about some steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct StepsKnown {
    /// Steps that may contain the forward pass with the most tokens.
    pub candidates: Vec<Candidate>,
    /// A sample of the steps, at equal distances.
    pub spread: Vec<Candidate>,
    /// Mean number of tokens in the trees of a step.
    pub mean_tokens: f64,
    /// Share of the tokens that are in steps whose gradient passes come after other passes.
    pub scored_first: f64,
}

/// A step that the plan looks at.
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
    /// Whether rows of scored answers that do not fit into a pass are cut into pieces.
    pub cuts_rows: bool,
    pub micro_batch_tokens: usize,
    /// Maximum number of scored answers of a row that a step uses, and the seed that chooses them. `None` if all are used.
    pub chosen: Option<(usize, u64)>,
    /// With [`Role::Detached`] the passes are those of an evaluation.
    pub role: Role,
}

/// What the lengths of the rows tell about one step.
struct StepTokens {
    /// Tokens of the trees of its rows.
    all: usize,
    /// Tokens of its largest pass. In a training step, only passes with a gradient count.
    largest_pass: usize,
    /// Tokens of the answers in that pass. They count because scored tokens need more memory than other tokens.
    scored: usize,
    /// Whether the step is one pass.
    alone: bool,
    /// Whether the step's gradient passes come after other passes.
    scored_first: bool,
}

impl Cutting {
    /// Measures a step. `donors` are the rows whose answers follow the prompts, for a loss with mismatched answers.
    fn step(&self, data: &Dataset, epoch: u64, batch: &[u32], donors: &[u32]) -> StepTokens {
        let rows: Vec<RowTokens> =
            (0..batch.len()).map(|place| self.row(data, epoch, batch[place], donors.get(place))).collect();
        let plan = match self.role {
            Role::Gradient => StepPlan::of_step(&rows, self.coupling, self.micro_batch_tokens),
            Role::Detached => StepPlan::of_scoring(&rows, self.coupling, self.micro_batch_tokens),
        };
        let passes = plan.passes.iter().filter(|pass| pass.role == self.role);
        let (largest_pass, scored) =
            passes.map(|pass| (pass.tokens(&rows), pass.answer_tokens(&rows))).max().unwrap_or_default();
        StepTokens {
            all: rows.iter().map(|row| row.tree(row.whole())).sum(),
            largest_pass,
            scored,
            alone: plan.passes.len() == 1,
            scored_first: self.role == Role::Gradient && plan.before_gradients().next().is_some(),
        }
    }

    /// Returns the lengths of a row, with the answer of `donor` as its mismatched answer.
    fn row(&self, data: &Dataset, epoch: u64, row: u32, donor: Option<&u32>) -> RowTokens {
        let lengths = data.lengths(row as usize);
        let mut answers: Vec<usize> = lengths.answers.iter().map(|&tokens| lengths.kept_of(tokens)).collect();
        if let (true, Some((most, seed))) = (self.role == Role::Gradient, self.chosen)
            && let Some(places) = completions::chosen(lengths.row, answers.len(), most, seed, epoch)
        {
            answers = places.into_iter().map(|place| answers[place]).collect();
        }
        // the whole answer of the donor, cut to the room that this prompt leaves
        let mismatched = donor.map_or(0, |&donor| match data.lengths(donor as usize).answers {
            [tokens] => lengths.kept_of(*tokens),
            _ => 0,
        });
        RowTokens { prompt: lengths.prompt, answers, mismatched, separable: self.cuts_rows }
    }
}

/// Measures the first `steps` steps in the order of the run by the lengths of their rows. Stops after [`ROWS_LOOKED_AT`] rows.
pub(super) fn steps_known(
    data: &Dataset,
    shuffle: Shuffle,
    steps: u64,
    cut: BatchCut,
    cutting: &Cutting,
) -> StepsKnown {
    // first index: 0 for the first epoch, 1 for later epochs, when a cache may have more answers; second index: 0 for batches that
    // fit into one pass, 1 for larger batches
    let mut tops: [[Top; 2]; 2] = Default::default();
    let (mut all_tokens, mut first_tokens, mut looked_at) = (0, 0, 0u64);
    let (mut spread, distance) = (Vec::new(), steps.div_ceil(LOOKED_UP));
    let (mut steps, mut rows_left) = (steps, ROWS_LOOKED_AT);
    let mut epoch = 0;
    while steps > 0 && rows_left > 0 {
        let order = data.order(shuffle, epoch);
        let has_donors = cutting.coupling == Coupling::MismatchedRows;
        let of_set = (has_donors && cutting.sharing == Sharing::Set).then(|| data.donors(&order));
        let mut first = 0;
        for batch in cut.batches(&order) {
            let of_set = of_set.as_ref().map(|donors| donors[first..first + batch.len()].to_vec());
            first += batch.len();
            let of_batch = if has_donors && of_set.is_none() { data.donors(batch) } else { Vec::new() };
            let step = cutting.step(data, epoch, batch, of_set.as_ref().unwrap_or(&of_batch));
            all_tokens += step.all;
            first_tokens += if step.scored_first { step.all } else { 0 };
            let candidate = || Candidate { epoch, rows: batch.to_vec(), donors: of_set.clone() };
            if looked_at.is_multiple_of(distance) {
                spread.push(candidate());
            }
            looked_at += 1;
            let top = &mut tops[usize::from(epoch > 0)][usize::from(!step.alone)];
            top.add((step.largest_pass, step.scored), batch, candidate);
            rows_left = rows_left.saturating_sub(batch.len());
            steps -= 1;
            if steps == 0 || rows_left == 0 {
                break;
            }
        }
        epoch += 1;
    }
    StepsKnown {
        candidates: tops.into_iter().flatten().flat_map(|top| top.0).map(|(_, candidate)| candidate).collect(),
        spread,
        mean_tokens: all_tokens as f64 / looked_at.max(1) as f64,
        scored_first: first_tokens as f64 / all_tokens.max(1) as f64,
    }
}

/// The [`MEASURED`] batches with the largest passes, the largest first. Each comes with the number of tokens in its largest pass
/// and the number of answer tokens among them.
#[derive(Default)]
struct Top(Vec<((usize, usize), Candidate)>);

impl Top {
    fn add(&mut self, largest_pass: (usize, usize), batch: &[u32], candidate: impl FnOnce() -> Candidate) {
        let place = self.0.partition_point(|(tokens, _)| *tokens >= largest_pass);
        // without shuffling, every epoch has the same batches
        if place < MEASURED && !self.0.iter().any(|(_, known)| known.rows == batch) {
            self.0.insert(place, (largest_pass, candidate()));
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

/// What happens to a last batch of one row.
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

    /// A row that is cut counts with its largest piece, not with all its tokens.
    #[test]
    fn a_row_in_pieces_counts_as_its_largest_piece() {
        let row =
            |n: usize| json!({"prompt": "p", "completions": ["on ".repeat(n), "no ".repeat(n)], "rewards": [1, 0]});
        let data = data(&[row(9), row(3), row(40), row(5)], RowKind::Scored, 64);
        let tree = |row: usize| data.lengths(row).tree();
        let longest = tree(2);
        let cutting = Cutting {
            coupling: Coupling::None,
            sharing: Sharing::Batch,
            cuts_rows: true,
            micro_batch_tokens: longest - 1,
            chosen: None,
            role: Role::Gradient,
        };
        let step = |rows: &[u32]| cutting.step(&data, 0, rows, &[]);
        let [one, other] = [0, 1].map(|answer| data.lengths(2).kept_of(data.lengths(2).answers[answer]));
        assert_eq!(longest, data.lengths(2).prompt + one + other);
        assert_eq!(step(&[2]).largest_pass, data.lengths(2).prompt + one.max(other));
        assert!(step(&[2]).scored_first && !step(&[0, 1]).scored_first);
        let known = known(&data, 1, &cutting);
        let all: usize = (0..4).map(tree).sum();
        assert_eq!(known.mean_tokens, all as f64 / 4.0);
        assert_eq!(known.scored_first, longest as f64 / all as f64);
        // batches that fit into one pass come before the others; of each kind, the largest comes first
        let candidate = |row: u32| Candidate { epoch: 0, rows: vec![row], donors: None };
        assert_eq!(known.candidates, [0, 3, 1, 2].map(candidate));
        let uncut = Cutting { cuts_rows: false, ..cutting };
        assert_eq!(uncut.step(&data, 0, &[2], &[]).largest_pass, longest);
    }

    /// If a step does not fit into one pass, its gradient passes have no mismatched answers. The passes of an evaluation have
    /// them. An answer that was cut after its own prompt may keep more tokens after another prompt.
    #[test]
    fn mismatched_answers_count_where_they_are_in_the_pass() {
        let row = |prompt: usize, n: usize| json!({"prompt": "so ".repeat(prompt), "completion": "on ".repeat(n), "label": true});
        let data = data(&[row(1, 20), row(30, 4), row(30, 90), row(1, 3)], RowKind::Labelled, 64);
        let tree = |row: usize| data.lengths(row).tree();
        let answer = |row: usize| data.lengths(row).answer_tokens();
        let of = |micro_batch_tokens: usize, role: Role, batch: &[u32]| {
            let cutting = Cutting {
                coupling: Coupling::MismatchedRows,
                sharing: Sharing::Batch,
                cuts_rows: false,
                micro_batch_tokens,
                chosen: None,
                role,
            };
            let step = cutting.step(&data, 0, batch, &data.donors(batch));
            (step.largest_pass, step.alone)
        };
        let both = tree(0) + answer(1) + tree(1) + answer(0).min(64 - data.lengths(1).prompt);
        assert_eq!(of(both, Role::Gradient, &[0, 1]), (both, true));
        assert_eq!(of(both - 1, Role::Gradient, &[0, 1]), (tree(0).max(tree(1)), false));
        let (first, second) = (tree(0) + answer(1), tree(1) + answer(0).min(64 - data.lengths(1).prompt));
        assert_eq!(of(both - 1, Role::Detached, &[0, 1]), (first.max(second), false));
        // the answer of row 2 was cut; after the shorter prompt of row 3 it fills the rest of the 64 tokens
        assert_eq!(tree(2), 64);
        assert_eq!(
            of(4096, Role::Gradient, &[2, 3]).0,
            64 + answer(3).min(64 - data.lengths(2).prompt) + tree(3) + 64 - data.lengths(3).prompt
        );
    }
}
