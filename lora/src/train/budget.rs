//! What a run will hold in memory, and how many layers keep what their backward pass needs.
//!
//! The passes run on a device that only counts ([`Counted`]), so all memory that a run allocates is counted: adapters, gradients,
//! optimiser, activations, scratch. The base weights are not counted: they are mapped pages of their files, which the system takes
//! back when it needs the memory. Only copies of weights are added.

use super::counted::{Counted, Gradients, PassCost};
use super::forest::Forest;
use super::step::Passes;
use align_kernels::device::{Headroom, Packed};
use align_kernels::{Device, Result, cpu};

/// Share of the free memory at the start that a run may fill by default. The rest is for the pages of the mapped weights and
/// for everything else on the machine.
pub const SHARE: f64 = Headroom::HOST.share;
/// Cached log-probs of the reference may take 1/16 of the limit if they are kept in memory.
const CACHE_SHARE: u64 = 16;
/// Gaps between a card's blocks take at most one part in this many of the peak.
const GAPS: u64 = 50;

/// Returns the bytes that cached log-probs may take in memory if the run has no memory limit.
pub(super) fn default_cache_limit() -> u64 {
    (cpu::free_bytes() as f64 * SHARE) as u64 / CACHE_SHARE
}

/// How much a run may hold, and what it holds all the time.
#[derive(Debug)]
pub(super) struct Budget {
    counted: Counted,
    headroom: Headroom,
    limit: u64,
    /// Bytes that the run may fill. Before [`Budget::plan`] this is the limit less what stays free for uncounted memory. Afterwards
    /// it is the plan's peak, so that smaller passes hold no more than the largest one.
    room: u64,
    /// Bytes of copies of weights, made because the device cannot use these weights in their file.
    copies: u64,
    /// Bytes reserved in memory for the reference's cached log-probs.
    cache: u64,
    /// Buffers for packing that the threads keep from call to call, according to the plan.
    packed: Packed,
}

/// What a run will hold at its largest forward pass.
#[derive(Debug)]
pub struct Plan {
    /// Bytes that the run may hold.
    pub limit: u64,
    /// Largest number of bytes that the run will hold at any time. It is the sum of `parts`.
    pub peak: u64,
    /// The most bytes that the run will hold of the device's memory.
    pub on_device: u64,
    /// Whether `limit` allows that peak. If not, the plan recomputes all layers.
    pub fits: bool,
    /// What the bytes of `peak` are for: a name and a number of bytes for each part.
    pub parts: Vec<(&'static str, u64)>,
    /// Layers of the model.
    pub layers: usize,
    /// How many layers keep their activations in the largest pass with a backward pass. The other layers are recomputed.
    pub layers_kept: usize,
    /// Tokens of the pass that holds the most bytes. Each counts once for every model that reads it. This pass may have no
    /// backward pass.
    pub(super) most_tokens: usize,
    /// The smallest limit under which the run fits, with all layers recomputed.
    pub limit_needed: u64,
    /// The rows of the largest pass with a backward pass.
    pub(super) pass: Forest,
    /// `pass` with the reference's rows, even if an earlier pass of the step has computed the reference's log-probs.
    pub(super) with_reference: Forest,
    /// Mean number of tokens in the trees of a step.
    pub(super) mean_tokens: f64,
    /// Share of the tokens that are in steps whose gradient passes come after other passes. See
    /// [`StepsKnown`](super::steps::StepsKnown).
    pub(super) scored_first: f64,
    /// Steps of the run.
    pub(super) steps: u64,
    /// Steps of the first epoch.
    pub(super) first_epoch: u64,
}

impl Plan {
    /// Returns how many rows of the largest pass are the reference's.
    pub fn reference_rows(&self) -> usize {
        self.pass.plan.reference
    }

    /// Returns the number of rows of the largest pass, those of the reference included.
    pub fn rows(&self) -> usize {
        self.pass.plan.rows()
    }
}

impl Budget {
    /// Makes a budget for the passes that `counted` counts. The limit is `limit` bytes, or by default a share of what is free on
    /// `device`. `copies` is the size in bytes of the weights that were copied because the device cannot use them in their file.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::Driver`] if the device has failed.
    pub(super) fn new(device: &Device, counted: Counted, copies: u64, limit: Option<u64>) -> Result<Budget> {
        let headroom = device.headroom();
        let limit = match limit {
            Some(limit) => limit,
            None => (device.free_bytes()? as f64 * headroom.share) as u64,
        };
        let (room, packed) = (headroom.room(limit), Packed::default());
        Ok(Budget { counted, headroom, limit, room, copies, cache: 0, packed })
    }

    /// Returns the model that counts the run's passes and computes nothing.
    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Returns how many layers keep their activations in a forward pass over the rows of `forest`. The other layers are
    /// recomputed: that costs one more forward pass of those layers and changes no bit of the result. `None` if the pass holds
    /// more than planned even with all layers recomputed.
    ///
    /// # Errors
    /// As [`Counted::pass`].
    pub(super) fn layers_kept(&self, forest: &Forest, gradients: Gradients) -> Result<Option<usize>> {
        Ok(self.fitting(forest, gradients)?.map(|(kept, _)| kept))
    }

    /// Returns how many bytes of the limit the reference's cached log-probs may take.
    pub(super) fn cache_limit(&self) -> u64 {
        self.limit / CACHE_SHARE
    }

    /// Whether cached log-probs may take more than is reserved for them.
    pub(super) fn cache_has_room(&self) -> bool {
        self.cache < self.cache_limit()
    }

    /// Reserves this many bytes for cached log-probs.
    pub(super) fn hold_for_cache(&mut self, bytes: u64) {
        self.cache = bytes;
    }

    /// Returns how many bytes of the limit are reserved for cached log-probs. The host keeps them, whatever the device.
    fn cache_on_device(&self) -> u64 {
        if self.counted.is_on_host() { self.cache } else { 0 }
    }

    /// Returns the bytes that the run holds all the time.
    fn held(&self) -> u64 {
        self.counted.held() + self.copies + self.cache_on_device()
    }

    /// Returns the largest number of layers that can keep their activations, and what the pass then costs. `None` if the pass
    /// holds too much even with all layers recomputed.
    fn fitting(&self, forest: &Forest, gradients: Gradients) -> Result<Option<(usize, PassCost)>> {
        let Some(room) = self.room.checked_sub(self.held()) else { return Ok(None) };
        let fits = |kept: usize| -> Result<Option<(usize, PassCost)>> {
            let cost = self.counted.pass(forest, kept, gradients)?;
            let packing = self.counted.packing(cost.packed.and(self.packed));
            Ok((cost.peak + packing <= room).then_some((kept, cost)))
        };
        // most passes can keep all layers; otherwise a binary search finds the largest number of layers that fits
        let all = self.counted.layers();
        if let Some(kept) = fits(all)? {
            return Ok(Some(kept));
        }
        let (mut found, mut from, mut to) = (None, 0, all);
        while from < to {
            let middle = from + (to - from) / 2;
            match fits(middle)? {
                Some(kept) => (found, from) = (Some(kept), middle + 1),
                None => to = middle,
            }
        }
        Ok(found)
    }

    /// Plans what a run will hold if `largest` has its largest passes. [`Plan::pass`] is the one with the most rows among those
    /// with a backward pass. A pass of a later epoch that has no rows of the reference is chosen only if there is no other.
    ///
    /// # Errors
    /// As [`Counted::pass`].
    pub(super) fn plan(&mut self, largest: Largest) -> Result<Plan> {
        self.room = self.headroom.room(self.limit);
        let Largest { with_gradient, without_gradient, packed, .. } = largest;
        let mut train: Vec<LargestWithGradient> = with_gradient.into_iter().flatten().collect();
        train.sort_by_key(|of| (of.later, std::cmp::Reverse(of.pass.plan.rows())));
        let least_of = |of: &LargestWithGradient| self.counted.pass(&of.pass, 0, of.gradients);
        let least = train.iter().map(least_of).collect::<Result<Vec<PassCost>>>()?;
        let (of_without, rows_without) = match &without_gradient {
            Some(forest) => (self.counted.pass(forest, 0, Gradients::Fresh)?.peak, forest.plan.rows()),
            None => (0, 0),
        };
        self.packed = packed;
        let packed = self.counted.packing(packed);
        let needed = self.held() + packed + least.iter().fold(of_without, |most, cost| most.max(cost.peak));
        let fits = needed <= self.room;
        let mut kept = Vec::new();
        for (LargestWithGradient { pass, gradients, .. }, least) in train.iter().zip(&least) {
            kept.push(self.fitting(pass, *gradients)?.filter(|_| fits).unwrap_or((0, *least)));
        }
        let (mut most, mut most_tokens) = (of_without, rows_without);
        for (LargestWithGradient { pass, .. }, (_, cost)) in train.iter().zip(&kept) {
            if cost.peak >= most {
                (most, most_tokens) = (cost.peak, pass.plan.rows());
            }
        }
        let first = train.into_iter().zip(kept).next();
        let (LargestWithGradient { pass, with_reference, gradients, .. }, (layers_kept, cost)) =
            first.expect("a run of at least one step has a pass");
        self.room = self.held() + packed + most;
        // the first pass of a step allocates the gradients while the kept layers are freed, so the gradients are not a separate
        // part
        let (of_adapter, of_gradients) = match gradients {
            Gradients::Fresh => ("adapter, optimiser", 0),
            Gradients::There => ("adapter, gradients, optimiser", self.counted.gradient_bytes().min(most - cost.kept)),
        };
        let state = self.counted.state();
        let parts = [
            (of_adapter, state + of_gradients),
            ("norms and copies of weights", self.counted.held() - state + self.copies),
            ("cached reference log-probs", self.cache_on_device()),
            ("inputs of recomputed layers, and what kept ones keep", cost.kept),
            ("the work on one layer", most - cost.kept - of_gradients),
            ("packing", packed),
        ];
        Ok(Plan {
            limit: self.limit,
            peak: self.room,
            // blocks of changing sizes leave gaps between them
            on_device: self.room + self.room / GAPS,
            fits,
            most_tokens,
            limit_needed: self.headroom.limit(needed),
            parts: parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect(),
            layers: self.counted.layers(),
            layers_kept,
            pass,
            with_reference,
            mean_tokens: 0.0,
            scored_first: 0.0,
            steps: 0,
            first_epoch: 0,
        })
    }
}

/// The largest forward passes of some steps.
#[derive(Debug, Default)]
pub(super) struct Largest {
    /// The largest passes with a backward pass, one of each kind. Kinds 1 and 3 add to gradients that an earlier pass of the step
    /// has made; kinds 0 and 2 make the gradients. Kinds 2 and 3 are passes of later epochs without rows of the reference; kinds 0
    /// and 1 are all other passes.
    with_gradient: [Option<LargestWithGradient>; 4],
    without_gradient: Option<Forest>,
    /// Buffers for packing that the threads keep once all these passes have run.
    packed: Packed,
    /// Bytes that each pass needs with all layers recomputed: the four of `with_gradient`, then `without_gradient`.
    bytes: [u64; 5],
}

/// The largest pass of one kind in `Largest::with_gradient`.
#[derive(Debug)]
struct LargestWithGradient {
    pass: Forest,
    /// `pass` with the reference's rows, even if an earlier pass of the step has computed the reference's log-probs.
    with_reference: Forest,
    /// Whether an earlier pass of its step has made gradients.
    gradients: Gradients,
    /// Whether the pass is in a later epoch than the first and has no rows of the reference, because their log-probs are known.
    later: bool,
}

impl Largest {
    /// Adds the passes of a step in epoch `epoch`. `gradients` says whether the adapters already have gradients before the step's
    /// first pass with a backward pass.
    pub(super) fn add(&mut self, passes: Passes, gradients: Gradients, epoch: u64, counted: &Counted) -> Result<()> {
        let mut gradients = gradients;
        let mut least = |forest: &Forest, gradients| -> Result<u64> {
            let cost = counted.pass(forest, 0, gradients)?;
            self.packed = self.packed.and(cost.packed);
            Ok(cost.peak)
        };
        for with_reference in passes.with_gradient {
            let pass = match passes.reference_is_known {
                true => with_reference.without_reference(),
                false => with_reference.clone(),
            };
            let later = epoch > 0 && pass.plan.reference == 0;
            let kind = usize::from(gradients == Gradients::There) + 2 * usize::from(later);
            let bytes = least(&pass, gradients)?;
            if self.with_gradient[kind].is_none() || self.bytes[kind] < bytes {
                self.with_gradient[kind] = Some(LargestWithGradient { pass, with_reference, gradients, later });
                self.bytes[kind] = bytes;
            }
            gradients = Gradients::There;
        }
        for found in passes.without_gradient {
            let bytes = least(&found, Gradients::Fresh)?;
            if self.without_gradient.is_none() || self.bytes[4] < bytes {
                (self.without_gradient, self.bytes[4]) = (Some(found), bytes);
            }
        }
        Ok(())
    }
}
