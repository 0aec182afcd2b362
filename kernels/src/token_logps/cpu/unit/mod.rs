//! Log-probs of targets on the unit that multiplies bf16. A thread's scratch holds the logits of 32 rows and a few panels of
//! tokens at a time; the next logits overwrite them once the softmax has read them.
//!
//! A task of the forward pass is a chunk of the vocabulary: it packs the chunk and finds each row's maximum and sums over it.
//! Then each row adds up its chunks in their order. A task of the backward pass is a block of rows. Their gradients stay in the
//! second-level cache while the task walks the vocabulary, which it packs twice: for the logits and for the gradients. So a row's
//! bits depend neither on the other rows nor on the number of threads.

use super::{Logit, Outputs, Running, Total};
use crate::arena::taken;
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::{Disjoint, parts};
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::{BLOCK, STEP_BYTES, STEP_DEPTH, Step, Sums};
use crate::cpu::unit::pack::{self, Element, Matrix, Role, panel_bytes};
use crate::cpu::unit::vector::{exp, rounded};
use crate::cpu::vectors::pointwise::{Map, Pointwise};
use crate::cpu::vectors::{Loaded, Simd, Stored};
use crate::token_logps::{Backward, Forward, Head};
use crate::{Device, FloatSlice, FloatSliceMut, IGNORE, Result, WeightSlice};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Number of panels of 32 tokens whose logits the forward pass computes before the softmax reads them.
const PANELS: usize = 4;
/// Number of tokens in a chunk of the forward pass.
const CHUNK: usize = 512;
/// Number of tokens in a chunk of the backward pass. The chunk, packed for the logits and again for the gradients, stays in
/// the second-level cache beside the rows' gradients.
const BACKWARD_CHUNK: usize = 256;
/// Maximum number of panels of rows in a task of the backward pass.
const ROW_PANELS: usize = 8;
/// Maximum size in bytes of the packed rows of one task of the backward pass, unless they are a single panel.
const ROWS_BYTES: usize = 600 << 10;
/// Maximum size in bytes of the packed rows of one walk of the forward pass over the vocabulary, unless they are a single
/// panel.
const FORWARD_ROWS_BYTES: usize = 8 << 20;

/// The operands of a forward or backward pass, for all rows or for a range of them.
#[derive(Clone, Copy)]
struct OnUnit<'a> {
    unit: Unit,
    hidden_size: usize,
    vocab_size: usize,
    hidden_states: FloatSlice<'a>,
    lm_head: WeightSlice<'a>,
    targets: &'a [u32],
    logit: Logit,
}

impl OnUnit<'_> {
    fn panel_bytes(&self) -> usize {
        panel_bytes(self.hidden_size, 1)
    }

    /// Returns the steps over the hidden size, with the extra one of [`Step::consecutive`] at the end.
    fn steps(&self) -> Vec<Step> {
        Step::consecutive(self.hidden_size.div_ceil(STEP_DEPTH))
    }

    /// Packs panels of rows of the hidden states.
    ///
    /// # Safety
    /// The processor has the unit; the panels are inside the operand; `to` has room for them and is aligned to 64 bytes.
    unsafe fn pack_rows(&self, panels: Range<usize>, to: *mut u8) {
        // SAFETY: the caller promises the unit, the panels and the room in `to`; `Head::check` has checked the operand's length.
        unsafe {
            match self.hidden_states {
                FloatSlice::F32(x) => self.pack_along(x.cpu(), self.targets.len(), Role::Left, panels, to),
                FloatSlice::Bf16(x) => self.pack_along(x.cpu(), self.targets.len(), Role::Left, panels, to),
            }
        }
    }

    /// Packs panels of a matrix `[side, hidden_size]`, with the hidden size as the depth.
    ///
    /// # Safety
    /// `x` holds `side` rows of `hidden_size` elements. The other conditions are those of [`OnUnit::pack_rows`].
    unsafe fn pack_along<E: Element>(&self, x: &[E], side: usize, role: Role, panels: Range<usize>, to: *mut u8) {
        let matrix = Matrix { at: x.as_ptr(), stride: self.hidden_size, side, depth: self.hidden_size };
        // SAFETY: the caller promises the unit, the panels and the room in `to`, and that `x` holds `side` rows.
        unsafe { pack::along_depth::<E, 1>(matrix, role, panels, to, self.panel_bytes()) };
    }

    /// Packs weights. For logits, these are panels of 32 tokens, with the hidden size as the depth. For gradients, they are all
    /// panels of the hidden size, with the tokens as the depth.
    ///
    /// # Safety
    /// The conditions of [`OnUnit::pack_rows`] hold.
    unsafe fn pack_weights(&self, part: Weights, to: *mut u8) {
        // SAFETY: the caller promises the unit, the panels and the room in `to`.
        unsafe {
            match self.lm_head {
                WeightSlice::F32(w) => self.pack_weights_of(w.cpu(), part, to),
                WeightSlice::F16(w) => self.pack_weights_of(w.cpu(), part, to),
                WeightSlice::Bf16(w) => self.pack_weights_of(w.cpu(), part, to),
            }
        }
    }

    /// # Safety
    /// The conditions of [`OnUnit::pack_rows`] hold.
    unsafe fn pack_weights_of<E: Element>(&self, w: &[E], part: Weights, to: *mut u8) {
        let hidden_size = self.hidden_size;
        // SAFETY: the caller promises the unit, the panels and the room in `to`; `Head::check` has checked the length of `w`.
        unsafe {
            match part {
                Weights::Logits(panels) => self.pack_along(w, self.vocab_size, Role::Right, panels, to),
                Weights::Gradients(tokens) => {
                    let (at, depth) = (w[tokens.start * hidden_size..].as_ptr(), tokens.len());
                    let matrix = Matrix { at, stride: hidden_size, side: hidden_size, depth };
                    let (panels, bytes) = (0..hidden_size.div_ceil(BLOCK), panel_bytes(depth, 1));
                    pack::across_depth::<E, 1>(matrix, Role::Right, panels, to, bytes);
                }
            }
        }
    }

    /// Writes the weights of one token to `to`, in f32 and rounded to bf16 as in the product.
    fn weight_row(&self, token: usize, to: &mut [f32]) {
        let row = token * self.hidden_size..(token + 1) * self.hidden_size;
        match self.lm_head {
            WeightSlice::F32(w) => round_row(&w.cpu()[row], to),
            WeightSlice::F16(w) => round_row(&w.cpu()[row], to),
            // already bf16: rounding again would only take time
            WeightSlice::Bf16(w) => to.iter_mut().zip(&w.cpu()[row]).for_each(|(to, w)| *to = w.wide()),
        }
    }
}

/// Computes `to = sums + of_target · row`. In a separate function the compiler knows that the slices do not overlap, and
/// vectorises the loop.
fn with_target<T: Stored>(to: &mut [T], sums: &[f32], of_target: f32, row: &[f32]) {
    for ((to, sum), w) in to.iter_mut().zip(sums).zip(row) {
        *to = T::narrow(sum + of_target * w);
    }
}

fn round_row<T: Loaded>(row: &[T], to: &mut [f32]) {
    to.iter_mut().zip(row).for_each(|(to, w)| *to = bf16::from_f32(w.wide()).to_f32());
}

/// Which weights [`OnUnit::pack_weights`] packs: a range of panels of tokens for logits, or a range of tokens for gradients.
enum Weights {
    Logits(Range<usize>),
    Gradients(Range<usize>),
}

/// Computes log-probs, log-sum-exps and the side outputs.
pub(super) fn forward(device: &Device, cpu: &Cpu, unit: Unit, call: Forward<'_>) -> Result<()> {
    let Forward { head: Head { hidden_size, vocab_size, hidden_states, lm_head, targets, .. }, .. } = call;
    let (all_targets, logit) = (targets.cpu(), Logit::new(&call.head));
    let mut outputs = Outputs::new(call.logps, call.lse, call.extras);
    let with_extras = outputs.extras.is_some();
    let bytes = panel_bytes(hidden_size, 1);
    let chunks = vocab_size.div_ceil(CHUNK);
    for block in passes(&call.head) {
        let hidden_states = hidden_states.range(block.start * hidden_size..block.end * hidden_size);
        let targets = &all_targets[block.clone()];
        let work = OnUnit { unit, hidden_size, vocab_size, hidden_states, lm_head, targets, logit };
        let row_panels = block.len().div_ceil(BLOCK);
        let mut packed = device.alloc::<f32>("token_logps.rows", row_panels * bytes / 4)?;
        let packs = Disjoint::new(packed.view_mut().cpu());
        cpu.for_each_task("token_logps.block", row_panels, 0, |panel, _| {
            // SAFETY: each task writes a different panel; `unit` is one that `Isa::available` found.
            unsafe {
                let to = packs.slice(panel * bytes / 4..(panel + 1) * bytes / 4);
                work.pack_rows(panel..panel + 1, to.as_mut_ptr().cast());
            }
        })?;
        let mut parts = vec![Running::EMPTY; chunks * block.len()];
        {
            let (left, parts) = (packed.view().cpu(), Disjoint::new(&mut parts));
            let lens = ForwardScratch::lens(row_panels, bytes, with_extras);
            cpu.for_each_task("token_logps.block", chunks, lens.iter().sum(), |chunk, scratch| {
                // SAFETY: each task writes the parts of a different chunk; `unit` is one that `Isa::available` found.
                unsafe {
                    let parts = parts.slice(chunk * block.len()..(chunk + 1) * block.len());
                    work.chunk(cpu, chunk, left, ForwardScratch::new(scratch, lens), parts);
                }
            })?;
        }
        for (i, row) in block.clone().enumerate() {
            let parts = (0..chunks).map(|chunk| parts[chunk * block.len() + i]);
            outputs.set(row, targets[i] != IGNORE, &Total::of(parts));
        }
    }
    Ok(())
}

/// Returns the rows of each walk over the vocabulary.
fn passes(head: &Head<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
    let rows = head.rows;
    let per_pass = (FORWARD_ROWS_BYTES / panel_bytes(head.hidden_size, 1)).max(1) * BLOCK;
    (0..rows).step_by(per_pass).map(move |first| first..rows.min(first + per_pass))
}

/// Returns the bytes of scratch that [`forward`] needs while it runs.
pub(super) fn forward_scratch(cpu: &Cpu, _: Unit, head: &Head<'_>, with_extras: bool) -> usize {
    let bytes = panel_bytes(head.hidden_size, 1);
    let of_pass = |rows: Range<usize>| {
        let row_panels = rows.len().div_ceil(BLOCK);
        let len = ForwardScratch::lens(row_panels, bytes, with_extras).iter().sum();
        taken(row_panels * bytes) + cpu.bytes_of_tasks(head.vocab_size.div_ceil(CHUNK), len)
    };
    passes(head).map(of_pass).max().unwrap_or(0)
}

impl Total {
    /// Adds up a row's sums over the chunks of the vocabulary, in the order of the chunks.
    fn of(parts: impl Iterator<Item = Running> + Clone) -> Total {
        let max = parts.clone().fold(f32::NEG_INFINITY, |max, part| if part.max > max { part.max } else { max });
        let mut total = Total { max, sum: 0.0, weighted: 0.0, sum_of_squares: 0.0, target: f32::NAN };
        for part in parts {
            let by = f64::from(part.max - max);
            let factor = by.exp();
            total.sum += f64::from(part.sum) * factor;
            total.weighted +=
                if factor == 0.0 { 0.0 } else { factor * (f64::from(part.weighted) + by * f64::from(part.sum)) };
            total.sum_of_squares += f64::from(part.sum_of_squares) * factor * factor;
            if !part.target.is_nan() {
                total.target = part.target;
            }
        }
        total
    }
}

/// The scratch of a task of the forward pass.
struct ForwardScratch<'a> {
    /// Panels of weights
    right: &'a mut [f32],
    /// `[BLOCK, PANELS * 32]`: logits
    z: &'a mut [f32],
    /// `[rows, 16]`: a lane's maximum so far
    max: &'a mut [f32],
    /// `[rows, 16]`: a lane's sum of `exp(z - max)`
    sum: &'a mut [f32],
    /// `[rows, 2, 16]`: a lane's sums for the side outputs; empty without them
    side: &'a mut [f32],
}

impl ForwardScratch<'_> {
    fn lens(row_panels: usize, bytes: usize, with_extras: bool) -> [usize; 5] {
        let lanes = row_panels * BLOCK * 16;
        [PANELS * bytes / 4, BLOCK * PANELS * BLOCK, lanes, lanes, if with_extras { 2 * lanes } else { 0 }]
    }

    fn new(scratch: &mut [f32], lens: [usize; 5]) -> ForwardScratch<'_> {
        let [right, z, max, sum, side] = parts(scratch, lens);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        side.fill(0.0);
        ForwardScratch { right, z, max, sum, side }
    }
}

impl Pointwise<0, 1> for Logit {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, _: [S::V; 0], [u]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller of `Pointwise::apply` promises that the processor has the instruction set of S.
        unsafe { [self.of::<S>(u)] }
    }
}

impl OnUnit<'_> {
    /// Computes the logits of one panel of rows and `panels` panels of tokens. Writes them to `z`, `[BLOCK, _]`, with the panels of
    /// tokens side by side. While it multiplies a panel of tokens, it prefetches the memory `ahead` bytes after the panel's start.
    ///
    /// # Safety
    /// The processor has the unit, configured on this thread; `left` and `right` hold the panels, and `z` has room for a block of
    /// sums for each panel of tokens.
    #[expect(clippy::too_many_arguments, reason = "panels of both operands, and what is asked for")]
    unsafe fn logits(
        &self,
        cpu: &Cpu,
        steps: &[Step],
        left: *const u8,
        right: *const u8,
        panels: usize,
        z: &mut [f32],
        ahead: usize,
    ) {
        let stride = 4 * z.len() / BLOCK;
        for panel in 0..panels {
            let (right, at) = (right.wrapping_add(panel * self.panel_bytes()), z[panel * BLOCK..].as_mut_ptr());
            // SAFETY: the caller promises the unit, the panels and the room in `z`.
            unsafe {
                let sums = Sums { at, stride, from_zero: true };
                self.unit.run_in_place(steps, left, right, sums, right.wrapping_add(ahead));
            }
        }
        if !self.logit.is_product() {
            cpu.isa().dispatch(Map { f: &self.logit, x: [] as [&[f32]; 0], y: [z] });
        }
    }

    /// Computes each row's maximum and sums over one chunk of the vocabulary, and puts them into `parts`.
    ///
    /// # Safety
    /// The processor has the unit; `left` holds the packed rows.
    unsafe fn chunk(&self, cpu: &Cpu, chunk: usize, left: &[f32], scratch: ForwardScratch<'_>, parts: &mut [Running]) {
        let ForwardScratch { right, z, max, sum, side } = scratch;
        let (bytes, steps) = (self.panel_bytes(), self.steps());
        // SAFETY: the caller promises that the processor has the unit.
        unsafe { self.unit.configure() };
        let tokens = chunk * CHUNK..self.vocab_size.min((chunk + 1) * CHUNK);
        for first in tokens.clone().step_by(PANELS * BLOCK) {
            let group = first..tokens.end.min(first + PANELS * BLOCK);
            let panels = group.start / BLOCK..group.end.div_ceil(BLOCK);
            let right: *mut u8 = right.as_mut_ptr().cast();
            // SAFETY: the unit is configured on this thread. `panels` has at most `PANELS` panels, each with a token below the
            // vocabulary's end, and `right` has room for `PANELS` panels.
            unsafe { self.pack_weights(Weights::Logits(panels.clone()), right) };
            for row_panel in 0..parts.len().div_ceil(BLOCK) {
                let left = left[row_panel * bytes / 4..].as_ptr().cast();
                // SAFETY: `left` is a panel of the packed rows, `right` holds `panels.len()` panels, packed above, and `z` has room
                // for their logits.
                unsafe { self.logits(cpu, &steps, left, right, panels.len(), z, bytes) };
                let rows = row_panel * BLOCK..parts.len().min((row_panel + 1) * BLOCK);
                for (i, row) in rows.enumerate() {
                    let z = &z[i * PANELS * BLOCK..][..group.len()];
                    let lanes = row * 16..(row + 1) * 16;
                    let (max, sum) = (&mut max[lanes.clone()], &mut sum[lanes]);
                    // SAFETY: the unit needs AVX-512 with bf16, so the processor has it. `max` and `sum` hold 16 floats each.
                    // `side` holds 32 with extras; without extras it is empty and not read.
                    unsafe {
                        match side.get_mut(row * 32..(row + 1) * 32) {
                            Some(side) => add::<true>(z, max, sum, side),
                            None => add::<false>(z, max, sum, &mut []),
                        }
                    }
                    let target = self.targets[row] as usize;
                    if group.contains(&target) {
                        parts[row].target = z[target - group.start];
                    }
                }
            }
        }
        for (row, part) in parts.iter_mut().enumerate() {
            let lanes = row * 16..(row + 1) * 16;
            part.max = max[lanes.clone()].iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            // a lane that has seen no token has a sum of 0 and is skipped
            for lane in lanes.filter(|&lane| sum[lane] != 0.0) {
                let at = row * 32 + lane % 16;
                let (weighted, sum_of_squares) = (side.get(at), side.get(at + 16));
                let lane = Running {
                    max: max[lane],
                    sum: sum[lane],
                    weighted: weighted.copied().unwrap_or(0.0),
                    sum_of_squares: sum_of_squares.copied().unwrap_or(0.0),
                    target: part.target,
                };
                let lane = lane.rescaled(part.max);
                part.sum += lane.sum;
                part.weighted += lane.weighted;
                part.sum_of_squares += lane.sum_of_squares;
            }
        }
    }
}

/// Updates a row's running maxima and sums with more logits, lane by lane; with `EXTRAS`, also the sums for the side outputs.
///
/// # Safety
/// The processor has AVX-512 with bf16; `max` and `sum` hold 16 floats, `side` 32 with `EXTRAS`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add<const EXTRAS: bool>(z: &[f32], max: &mut [f32], sum: &mut [f32], side: &mut [f32]) {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    // SAFETY: the masks select lanes inside `z` only; `max`, `sum` and `side` are as long as the caller promises.
    unsafe {
        let mask = |at: usize| ((1u32 << (z.len() - at).min(16)) - 1) as __mmask16;
        let load = |at: usize| _mm512_mask_loadu_ps(lowest, mask(at), z.as_ptr().add(at));
        let before = _mm512_loadu_ps(max.as_ptr());
        let mut after = before;
        for at in (0..z.len()).step_by(16) {
            // the instruction returns its second operand if one is NaN, so a NaN logit does not change the maximum
            after = _mm512_max_ps(load(at), after);
        }
        // a lane that has seen no logit has nothing to rescale, and its `by` may be infinity minus infinity, a NaN
        let seen = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(before, lowest);
        let by = _mm512_sub_ps(before, after);
        let rescale = exp(by);
        let before = _mm512_loadu_ps(sum.as_ptr());
        let mut total = _mm512_maskz_mul_ps(seen, before, rescale);
        let [mut weighted, mut squares] = [_mm512_setzero_ps(); 2];
        if EXTRAS {
            // lanes whose factor is 0 drop their old sums: if `by` is infinite, the products would be NaN
            let counts = _mm512_mask_cmp_ps_mask::<_CMP_NEQ_OQ>(seen, rescale, weighted);
            let moved = _mm512_fmadd_ps(by, before, _mm512_loadu_ps(side.as_ptr()));
            weighted = _mm512_maskz_mul_ps(counts, moved, rescale);
            let scaled = _mm512_mul_ps(_mm512_loadu_ps(side.as_ptr().add(16)), rescale);
            squares = _mm512_maskz_mul_ps(counts, scaled, rescale);
        }
        for at in (0..z.len()).step_by(16) {
            let distance = _mm512_sub_ps(load(at), after);
            let p = exp(distance);
            total = _mm512_mask_add_ps(total, mask(at), total, p);
            if EXTRAS {
                // a logit whose share is 0 adds nothing to the entropy, even if it is infinitely far below
                let counts = _mm512_mask_cmp_ps_mask::<_CMP_NEQ_UQ>(mask(at), p, _mm512_setzero_ps());
                weighted = _mm512_mask3_fmadd_ps(p, distance, weighted, counts);
                squares = _mm512_mask3_fmadd_ps(p, p, squares, counts);
            }
        }
        if EXTRAS {
            _mm512_storeu_ps(side.as_mut_ptr(), weighted);
            _mm512_storeu_ps(side.as_mut_ptr().add(16), squares);
        }
        _mm512_storeu_ps(max.as_mut_ptr(), after);
        _mm512_storeu_ps(sum.as_mut_ptr(), total);
    }
}

/// Computes the gradients of the hidden states.
pub(super) fn backward(cpu: &Cpu, unit: Unit, call: Backward<'_>) -> Result<()> {
    let Head { hidden_size, vocab_size, hidden_states, lm_head, .. } = call.head;
    let (targets, lse, d_logps) = (call.head.targets.cpu(), call.lse.cpu(), call.d_logps.cpu());
    let logit = Logit::new(&call.head);
    let work = OnUnit { unit, hidden_size, vocab_size, hidden_states, lm_head, targets, logit };
    match call.d_hidden {
        FloatSliceMut::F32(d_hidden) => work.backward(cpu, lse, d_logps, d_hidden.cpu()),
        FloatSliceMut::Bf16(d_hidden) => work.backward(cpu, lse, d_logps, d_hidden.cpu()),
    }
}

/// The scratch of a task of the backward pass.
struct BackwardScratch<'a> {
    left: &'a mut [f32],
    /// Two packed copies of the weights of a chunk: the first for the logits, the second for the gradients.
    right: &'a mut [f32],
    /// `[BLOCK, BACKWARD_CHUNK]`: logits
    z: &'a mut [f32],
    /// The gradients of the logits, packed
    g: &'a mut [f32],
    /// `[rows, padded hidden_size]`: the gradients of the hidden states, without the targets' part
    dx: &'a mut [f32],
    /// `[rows]`: the gradient of the target's logit
    of_target: &'a mut [f32],
    /// `[hidden_size]`: the weights of a row's target
    row: &'a mut [f32],
}

impl BackwardScratch<'_> {
    fn lens(row_panels: usize, hidden_size: usize) -> [usize; 7] {
        let (along, padded) = (panel_bytes(hidden_size, 1) / 4, padded(hidden_size));
        let across = padded / BLOCK * panel_bytes(BACKWARD_CHUNK, 1) / 4;
        [
            row_panels * along,
            BACKWARD_CHUNK / BLOCK * along + across,
            BLOCK * BACKWARD_CHUNK,
            panel_bytes(BACKWARD_CHUNK, 1) / 4,
            row_panels * BLOCK * padded,
            row_panels * BLOCK,
            hidden_size,
        ]
    }

    fn new(scratch: &mut [f32], lens: [usize; 7]) -> BackwardScratch<'_> {
        let [left, right, z, g, dx, of_target, row] = parts(scratch, lens);
        dx.fill(0.0);
        of_target.fill(0.0);
        BackwardScratch { left, right, z, g, dx, of_target, row }
    }
}

/// Returns the hidden size, rounded up to whole panels.
fn padded(hidden_size: usize) -> usize {
    hidden_size.next_multiple_of(BLOCK)
}

/// Returns the number of tasks of the backward pass: a multiple of the number of threads, but at most one for each row panel.
fn backward_tasks(cpu: &Cpu, row_panels: usize, hidden_size: usize) -> usize {
    let most = (ROWS_BYTES / panel_bytes(hidden_size, 1)).clamp(1, ROW_PANELS);
    row_panels.div_ceil(most).next_multiple_of(cpu.threads()).min(row_panels)
}

/// Returns the number of floats of scratch that a thread needs in the backward pass.
fn backward_len(row_panels: usize, tasks: usize, hidden_size: usize) -> usize {
    BackwardScratch::lens(row_panels.div_ceil(tasks.max(1)), hidden_size).iter().sum()
}

/// Returns the bytes of scratch that [`backward`] needs while it runs.
pub(super) fn backward_scratch(cpu: &Cpu, _: Unit, head: &Head<'_>) -> usize {
    let row_panels = head.rows.div_ceil(BLOCK);
    let tasks = backward_tasks(cpu, row_panels, head.hidden_size);
    cpu.bytes_of_tasks(tasks, backward_len(row_panels, tasks, head.hidden_size))
}

impl OnUnit<'_> {
    /// Computes the gradients of the hidden states, in f32 or bf16.
    fn backward<T: Stored>(&self, cpu: &Cpu, lse: &[f32], d_logps: &[f32], d_hidden: &mut [T]) -> Result<()> {
        let OnUnit { hidden_size, targets, .. } = *self;
        let row_panels = targets.len().div_ceil(BLOCK);
        let tasks = backward_tasks(cpu, row_panels, hidden_size);
        let part = |task: usize| row_panels * task / tasks..row_panels * (task + 1) / tasks;
        let d_hidden = Disjoint::new(d_hidden);
        let len = backward_len(row_panels, tasks, hidden_size);
        cpu.for_each_task("token_logps.block", tasks, len, |task, scratch| {
            let panels = part(task);
            let mut scratch = BackwardScratch::new(scratch, BackwardScratch::lens(panels.len(), hidden_size));
            // SAFETY: `self.unit` is one that `Isa::available` found; all panels hold rows, and the scratch has room for
            // `panels.len()` panels.
            unsafe { self.gradients(cpu, panels.clone(), lse, d_logps, &mut scratch) };
            for (i, row) in (panels.start * BLOCK..targets.len().min(panels.end * BLOCK)).enumerate() {
                // SAFETY: no two tasks have a row in common.
                let to = unsafe { d_hidden.slice(row * hidden_size..(row + 1) * hidden_size) };
                if targets[row] == IGNORE {
                    to.fill(T::narrow(0.0));
                    continue;
                }
                self.weight_row(targets[row] as usize, scratch.row);
                let sums = &scratch.dx[i * padded(self.hidden_size)..][..hidden_size];
                with_target(to, sums, scratch.of_target[i], scratch.row);
            }
        })
    }

    /// Sums `dx` over all tokens except each row's target. The gradient of the target's logit goes to `of_target` in f32: it has
    /// the factor `1 - p`, which would be lost if a `p` near 1 were rounded to bf16 first.
    ///
    /// # Safety
    /// The processor has the unit; the panels hold rows, and `scratch` has room for them.
    unsafe fn gradients(
        &self,
        cpu: &Cpu,
        panels: Range<usize>,
        lse: &[f32],
        d_logps: &[f32],
        scratch: &mut BackwardScratch<'_>,
    ) {
        let (bytes, steps) = (self.panel_bytes(), self.steps());
        let chunk_steps = Step::consecutive(BACKWARD_CHUNK / STEP_DEPTH);
        let across = panel_bytes(BACKWARD_CHUNK, 1);
        let left: *mut u8 = scratch.left.as_mut_ptr().cast();
        let right: *mut u8 = scratch.right.as_mut_ptr().cast();
        let right_across = right.wrapping_add(BACKWARD_CHUNK / BLOCK * bytes);
        // SAFETY: the caller promises that the processor has the unit, that the panels hold rows and that `left` has room for
        // them.
        unsafe {
            self.unit.configure();
            self.pack_rows(panels.clone(), left);
        }
        for first in (0..self.vocab_size).step_by(BACKWARD_CHUNK) {
            let tokens = first..self.vocab_size.min(first + BACKWARD_CHUNK);
            let logit_panels = tokens.start / BLOCK..tokens.end.div_ceil(BLOCK);
            // there are no gradients beyond the vocabulary, so the last chunk's steps end with its tokens
            let depth_steps = tokens.len().div_ceil(STEP_DEPTH);
            let across = if depth_steps < BACKWARD_CHUNK / STEP_DEPTH { panel_bytes(tokens.len(), 1) } else { across };
            // SAFETY: the tokens are below the vocabulary's end; `right` has room for a chunk that is packed in both ways.
            unsafe {
                self.pack_weights(Weights::Logits(logit_panels.clone()), right);
                self.pack_weights(Weights::Gradients(tokens.clone()), right_across);
            }
            for index in 0..panels.len() {
                let left = left.wrapping_add(index * bytes);
                // SAFETY: `left` and `right` were packed above, and `z` has room for a chunk's logits.
                unsafe { self.logits(cpu, &steps, left, right, logit_panels.len(), scratch.z, 0) };
                let first_row = (panels.start + index) * BLOCK;
                for i in 0..BLOCK.min(self.targets.len() - first_row) {
                    let row = first_row + i;
                    let z = &scratch.z[i * BACKWARD_CHUNK..][..depth_steps * STEP_DEPTH];
                    let skip = self.targets[row] == IGNORE || d_logps[row] == 0.0;
                    let d_logp = if skip { 0.0 } else { d_logps[row] };
                    let target = (self.targets[row] as usize).checked_sub(tokens.start).filter(|at| *at < tokens.len());
                    if let (Some(at), false) = (target, skip) {
                        let z = z[at];
                        scratch.of_target[index * BLOCK + i] = -d_logp * (z - lse[row]).exp_m1() * self.logit.slope(z);
                    }
                    let to: *mut u8 = scratch.g.as_mut_ptr().cast();
                    let line = to.wrapping_add(i / 16 * 1024 + i % 16 * 64);
                    // SAFETY: the processor has AVX-512 with bf16; `z` is a whole number of steps, and `g` has a line for this
                    // row in each step.
                    unsafe { logit_gradients(z, tokens.len(), target, lse[row], -d_logp, self.logit, line) };
                }
                for col in 0..padded(self.hidden_size) / BLOCK {
                    let right = right_across.wrapping_add(col * across);
                    let at = scratch.dx[index * BLOCK * padded(self.hidden_size) + col * BLOCK..].as_mut_ptr();
                    let sums = Sums { at, stride: 4 * padded(self.hidden_size), from_zero: false };
                    let g = scratch.g.as_ptr().cast();
                    // SAFETY: `g` and `right` hold `depth_steps` steps, packed above; `dx` has a block for each panel of columns.
                    unsafe { self.unit.run_in_place(&chunk_steps[..=depth_steps], g, right, sums, right) };
                }
            }
        }
    }
}

/// Writes `factor * exp(z - lse) dz/du` of the first `tokens` logits, rounded to bf16 and packed. Each step has a line of 32
/// values. The target's place and the places from `tokens` on get 0.
///
/// # Safety
/// The processor has AVX-512 with bf16; `z` is a whole number of steps; `to` points at a line of 64 bytes for each of them,
/// [`STEP_BYTES`] apart and aligned to 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn logit_gradients(
    z: &[f32],
    tokens: usize,
    target: Option<usize>,
    lse: f32,
    factor: f32,
    logit: Logit,
    to: *mut u8,
) {
    let (lse, factor) = (_mm512_set1_ps(lse), _mm512_set1_ps(factor / logit.temperature));
    // past all tokens if the target is not among them: this saves a branch, which would be mispredicted at each row's target
    let target = target.unwrap_or(usize::MAX);
    for step in 0..z.len() / STEP_DEPTH {
        let mut halves = [_mm512_setzero_ps(); 2];
        // no closures: a function that takes one is compiled without the instruction set, and the compiler might not inline it
        for (i, half) in halves.iter_mut().enumerate() {
            let at = step * STEP_DEPTH + 16 * i;
            let there = ((1u32 << tokens.saturating_sub(at).min(16)) - 1) as __mmask16;
            let of_target = ((1u32 << target.wrapping_sub(at).min(16)) & 0xffff) as __mmask16;
            let mask = there & !of_target;
            // SAFETY: `z` is a whole number of steps of 32, so it has 16 floats at `at`.
            let z = unsafe { _mm512_loadu_ps(z.as_ptr().add(at)) };
            let mut g = _mm512_mul_ps(exp(_mm512_sub_ps(z, lse)), factor);
            if let Some(cap) = logit.cap {
                let t = _mm512_div_ps(z, _mm512_set1_ps(cap / logit.temperature));
                g = _mm512_mul_ps(g, _mm512_fnmadd_ps(t, t, _mm512_set1_ps(1.0)));
            }
            *half = _mm512_maskz_mov_ps(mask, g);
        }
        // SAFETY: the caller promises an aligned line in `to` for each step of `z`.
        unsafe { _mm512_store_si512(to.add(step * STEP_BYTES).cast(), rounded(halves[0], halves[1])) };
    }
}
