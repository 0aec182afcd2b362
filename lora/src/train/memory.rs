//! What a run will hold in memory, and how many layers keep what their backward pass needs.
//!
//! Everything that is computed counts: adapters, gradients, optimiser, activations, scratch. The base weights do not: they are
//! pages of their files, which the system takes back when it needs the memory.

use super::forest::Forest;
use super::size::Size;
use crate::data::{Dataset, Shuffle, pack};
use align_engine::free_memory::free_bytes;
use align_engine::model::adapters::Adapters;
use align_engine::model::{Footprint, Gradients, Model, PassBytes, PassShape};
use align_kernels::{Precision, gemm};

/// Share of the memory that is free at the start which a run may fill unless it is told: the rest is for the pages of the mapped
/// weights and for everything else on the machine.
pub const SHARE: f64 = 0.4;
/// Parts of a limit, of which one is left for what no plan counts: gaps between blocks, tokenizer, data, a copy of the adapter while it
/// is saved. On a model of 7 billion parameters the process's anonymous memory was 6 % above what its blocks hold.
const UNCOUNTED: u64 = 12;
/// Rows whose place in the run's order is looked at for the largest forward pass. Behind them a larger one may come, which then
/// keeps fewer layers, and where that is not enough holds more than was planned.
const ROWS_LOOKED_AT: usize = 4 << 20;

/// How much a run may hold, and what of it is held all the time.
#[derive(Debug)]
pub struct Budget<'m> {
    footprint: Footprint<'m>,
    limit: u64,
    /// What may be filled: the limit without what is not counted, or from the plan on what it says, so that smaller passes hold no more than the
    /// largest.
    room: u64,
    /// Adapters, optimiser state, and what the model has copied.
    held: u64,
    /// Adapters and optimiser state alone.
    state: u64,
    layers: usize,
    /// What the cached log-probs of the reference take of what is held.
    cache: u64,
}

/// A run needs more memory than it may hold, even with all layers recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLittle {
    pub needed: Size,
    pub limit: Size,
    /// Rows of the forward pass that is too large.
    pub rows: usize,
}

/// What a run will hold at its largest forward pass.
#[derive(Debug)]
pub struct Plan {
    /// Bytes that it may hold.
    pub limit: u64,
    /// Bytes that it will hold at most: the sum of the parts.
    pub peak: u64,
    /// What they are for, by name.
    pub parts: Vec<(&'static str, u64)>,
    /// Layers, and how many of them keep their activations in that pass; the others are recomputed.
    pub layers: usize,
    pub layers_kept: usize,
    /// The rows of that pass.
    pub(super) pass: Forest,
    /// Tokens of the trees of a mean step.
    pub(super) mean_tokens: f64,
    /// Whether that pass is the only one of its step.
    pub(super) alone: bool,
    /// Steps of the run, and those of them that are in its first epoch.
    pub(super) steps: u64,
    pub(super) first_epoch: u64,
}

impl Plan {
    /// Rows of the largest pass that are the reference's.
    pub fn reference_rows(&self) -> usize {
        self.pass.plan.reference
    }

    /// Rows of the largest pass, those of the reference included.
    pub fn rows(&self) -> usize {
        self.pass.plan.rows()
    }
}

impl<'m> Budget<'m> {
    /// For passes of `model` with `adapters`; adapters and optimiser are on the device already. `limit` bytes, or [`SHARE`] of what
    /// is free.
    pub(super) fn new(
        model: &'m Model,
        adapters: &Adapters,
        precision: Precision,
        dropout: bool,
        limit: Option<u64>,
    ) -> Budget<'m> {
        let footprint = Footprint::new(model, adapters, precision, dropout);
        let report = model.device().memory();
        let packed = report.names.get(gemm::PACKED).map_or(0, |used| used.in_use);
        let held = (report.in_use - packed) as u64;
        let limit = limit.unwrap_or((free_bytes() as f64 * SHARE) as u64);
        // the parameters and two moments of each
        let state = 3 * footprint.gradient_bytes();
        Budget {
            footprint,
            limit,
            room: without_uncounted(limit),
            held,
            state,
            layers: model.config().num_hidden_layers,
            cache: 0,
        }
    }

    /// Layers to keep in a forward pass over the rows of `forest`; the others are recomputed, which costs one more forward pass of
    /// those layers and changes no bit of the result.
    /// None if it holds more than planned even with none.
    pub fn layers_kept(&self, forest: &Forest, gradients: Gradients) -> Option<usize> {
        self.fitting(forest, gradients).map(|(kept, _)| kept)
    }

    /// Bytes that the run may hold.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Keeps so many bytes for cached log-probs.
    pub(super) fn hold_for_cache(&mut self, bytes: u64) {
        self.held = self.held - self.cache + bytes;
        self.cache = bytes;
    }

    /// Numbers of the adapter.
    pub(super) fn parameters(&self) -> u64 {
        self.footprint.gradient_bytes() / size_of::<f32>() as u64
    }

    /// The most layers that can be kept, and what the run holds then. None if it is too much even with none.
    fn fitting(&self, forest: &Forest, gradients: Gradients) -> Option<(usize, PassBytes)> {
        let shape = shape(forest);
        let room = self.room.checked_sub(self.held + self.packed(forest))?;
        let candidates = (0..=self.layers).rev();
        candidates
            .map(|kept| (kept, self.footprint.bytes(shape, kept, gradients)))
            .find(|(_, bytes)| bytes.peak <= room)
    }

    fn packed(&self, forest: &Forest) -> u64 {
        self.footprint.packed_bytes(forest.plan.rows(), forest.scored_rows.len())
    }

    /// What a run will hold whose largest pass with a backward pass is `train`, and the largest without `eval`.
    pub(super) fn plan(&mut self, train: Largest, eval: Option<&Largest>) -> Result<Plan, TooLittle> {
        self.room = without_uncounted(self.limit);
        let Largest { pass, alone, mean_tokens } = train;
        let (train, eval) = (&pass, eval.map(|largest| &largest.pass));
        let gradients = if alone { Gradients::Fresh } else { Gradients::There };
        let packed = eval.map_or(0, |forest| self.packed(forest)).max(self.packed(train));
        let of_eval = eval.map_or(0, |forest| self.footprint.bytes(shape(forest), 0, Gradients::Fresh).peak);
        let least = self.footprint.bytes(shape(train), 0, gradients).peak;
        let needed = self.held + packed + least.max(of_eval);
        let Some((layers_kept, bytes)) = self.fitting(train, gradients).filter(|_| needed <= self.room) else {
            let largest = eval.filter(|_| of_eval > least).unwrap_or(train);
            let with_uncounted = needed + needed.div_ceil(UNCOUNTED - 1);
            let (needed, limit) = (Size(with_uncounted), Size(self.limit));
            return Err(TooLittle { needed, limit, rows: largest.plan.rows() });
        };
        let most = bytes.peak.max(of_eval);
        self.room = self.held + packed + most;
        let held_by_passes = bytes.layer_inputs + bytes.kept;
        // where there is one pass they come when the kept layers go
        let of_gradients = if alone { 0 } else { self.footprint.gradient_bytes().min(most - held_by_passes) };
        let held = self.held - self.cache;
        let parts = [
            (
                if alone { "adapter, optimiser" } else { "adapter, gradients, optimiser" },
                self.state.min(held) + of_gradients,
            ),
            ("norms and copies of weights", held.saturating_sub(self.state)),
            ("cached reference log-probs", self.cache),
            ("inputs of recomputed layers", bytes.layer_inputs),
            ("kept layers", bytes.kept),
            ("the work on one layer", most - held_by_passes - of_gradients),
            ("packing", packed),
        ];
        Ok(Plan {
            limit: self.limit,
            peak: self.room,
            parts: parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect(),
            layers: self.layers,
            layers_kept,
            pass,
            alone,
            mean_tokens,
            steps: 0,
            first_epoch: 0,
        })
    }
}

/// What a plan may fill of a limit.
fn without_uncounted(limit: u64) -> u64 {
    limit - limit / UNCOUNTED
}

fn shape(forest: &Forest) -> PassShape<'_> {
    let (scored, scored_with_gradient) = (forest.scored_rows.len(), forest.scored_with_gradient);
    PassShape { plan: &forest.plan, scored, scored_with_gradient }
}

/// The largest forward pass of some steps.
#[derive(Debug)]
pub(super) struct Largest {
    pub pass: Forest,
    /// Whether it is the only one of its step.
    pub alone: bool,
    /// Tokens of the trees of a mean step.
    pub mean_tokens: f64,
}

/// The rows of the optimiser step whose largest forward pass has the most tokens, among `steps` steps in the order of the run; and the
/// tokens of a mean step. `mismatched`: each row comes with the answer of the one before, cut to so many tokens with its prompt.
pub(super) fn largest_batch(
    data: &Dataset,
    shuffle: Shuffle,
    steps: u64,
    cut: BatchCut,
    mismatched: Option<usize>,
    micro_batch_tokens: usize,
) -> (Vec<u32>, f64) {
    let mut largest = (0, Vec::new());
    let (mut all_tokens, mut looked_at) = (0, 0u64);
    let (mut steps, mut rows_left) = (steps, ROWS_LOOKED_AT);
    let mut epoch = 0;
    while steps > 0 && rows_left > 0 {
        let order = data.order(shuffle, epoch);
        for batch in cut.batches(&order) {
            let lengths = tree_tokens(data, batch, mismatched);
            all_tokens += lengths.iter().sum::<usize>();
            looked_at += 1;
            let tokens = tokens_of_largest(&lengths, micro_batch_tokens);
            if tokens > largest.0 {
                largest = (tokens, batch.to_vec());
            }
            rows_left = rows_left.saturating_sub(batch.len());
            steps -= 1;
            if steps == 0 || rows_left == 0 {
                break;
            }
        }
        epoch += 1;
    }
    (largest.1, all_tokens as f64 / looked_at.max(1) as f64)
}

fn tree_tokens(data: &Dataset, batch: &[u32], mismatched: Option<usize>) -> Vec<usize> {
    let of = |place: usize| data.lengths(batch[place] as usize);
    let tokens = |place: usize| {
        let own = of(place);
        let other = mismatched.map_or(0, |max_length| {
            // the answer may be longer: what did not fit behind its own prompt is not known here
            let before = of(if place == 0 { batch.len() - 1 } else { place - 1 });
            (before.tree - before.prompt).min(max_length.saturating_sub(own.prompt))
        });
        own.tree + other
    };
    (0..batch.len()).map(tokens).collect()
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

fn tokens_of_largest(lengths: &[usize], micro_batch_tokens: usize) -> usize {
    let all = lengths.iter().sum();
    if all <= micro_batch_tokens {
        return all;
    }
    let tokens = |members: &Vec<usize>| members.iter().map(|&member| lengths[member]).sum();
    pack(lengths, micro_batch_tokens).iter().map(tokens).max().unwrap_or(0)
}
