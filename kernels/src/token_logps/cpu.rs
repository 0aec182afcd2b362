//! Log-probs of targets on the processor: tiles of the vocabulary by the matrix product, then one pass of the online softmax.
//!
//! A tile of logits is `[rows, VOCAB_TILE]`. Its columns are walked in the same order whatever the rows beside it, so the bits
//! of a row do not depend on its neighbours, nor on the number of threads.

#[cfg(target_arch = "x86_64")]
mod tiles;

use super::{Backward, Extras, Forward};
use crate::Precision;
use crate::cpu::simd::{Simd, VectorTask, largest};
use crate::device::Cpu;
use crate::gemm::{self, Accumulate};
use crate::{Device, FloatDtype, IGNORE, Result, ScratchBytes, Slice, SliceMut};

/// Tokens of a tile: with 1024 rows it is 2 MiB, which the second-level caches of two cores hold until the softmax reads it.
/// Twice as many were 5 % slower.
const VOCAB_TILE: usize = 512;
/// Rows of a tile at most: it bounds the scratch to 4 MiB, and at 2048 rows the packing of the weights is a twentieth of the
/// product's time.
const ROW_TILE: usize = 2048;
/// Rows that one thread takes at a time.
const ROWS_PER_TASK: usize = 16;

/// The online softmax of one row over the tiles seen so far.
#[derive(Debug, Clone, Copy)]
struct Running {
    max: f32,
    /// `Σ e`, `e = exp(z - max)`
    sum: f32,
    /// `Σ e (z - max)`, for the entropy
    weighted: f32,
    /// `Σ e²`, for the log-sum-exp of twice the logits
    sum_of_squares: f32,
    /// The target's logit, once its tile has been seen
    target: f32,
}

impl Running {
    const EMPTY: Running =
        Running { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0, sum_of_squares: 0.0, target: f32::NAN };

    /// Adds a tile, given with its own maximum.
    fn add(&mut self, tile: Running) {
        if self.max == f32::NEG_INFINITY {
            *self = Running { target: self.target, ..tile };
            return;
        }
        let max = if tile.max > self.max { tile.max } else { self.max };
        let (before, after) = (self.rescaled(max), tile.rescaled(max));
        self.max = max;
        self.sum = before.sum + after.sum;
        self.weighted = before.weighted + after.weighted;
        self.sum_of_squares = before.sum_of_squares + after.sum_of_squares;
    }

    /// The same sums relative to a maximum that is at least as large.
    fn rescaled(&self, max: f32) -> Running {
        let by = self.max - max;
        let factor = by.exp();
        Running {
            max,
            sum: self.sum * factor,
            // factor 0 stands for a tile that no longer counts, whatever its distance
            weighted: if factor == 0.0 { 0.0 } else { factor * (self.weighted + by * self.sum) },
            sum_of_squares: self.sum_of_squares * factor * factor,
            target: self.target,
        }
    }
}

/// The softmax of one row over the whole vocabulary.
struct Total {
    max: f32,
    sum: f64,
    weighted: f64,
    sum_of_squares: f64,
    target: f32,
}

impl Total {
    /// Adds parts of the vocabulary in their order.
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

impl From<&Running> for Total {
    fn from(all: &Running) -> Total {
        let &Running { max, sum, weighted, sum_of_squares, target } = all;
        let [sum, weighted, sum_of_squares] = [sum, weighted, sum_of_squares].map(f64::from);
        Total { max, sum, weighted, sum_of_squares, target }
    }
}

/// From products to logits: `z = cap * tanh(u / cap) / temperature`, or `u / temperature`.
#[derive(Debug, Clone, Copy)]
struct Logit {
    cap: Option<f32>,
    temperature: f32,
}

impl Logit {
    fn is_product(self) -> bool {
        self.cap.is_none() && self.temperature == 1.0
    }

    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn of<S: Simd>(self, u: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe {
            let capped = match self.cap {
                Some(cap) => S::mul(S::tanh(S::div(u, S::splat(cap))), S::splat(cap)),
                None => u,
            };
            if self.temperature == 1.0 { capped } else { S::div(capped, S::splat(self.temperature)) }
        }
    }

    /// `dz/du`, of a logit.
    fn slope(self, z: f32) -> f32 {
        let t = self.cap.map_or(0.0, |cap| z * self.temperature / cap);
        (1.0 - t * t) / self.temperature
    }
}

/// What [`Forward`] gives, a row at a time.
struct Outputs<'a> {
    logps: &'a mut [f32],
    lse: &'a mut [f32],
    /// Entropy, whether the target is the largest, log-sum-exp of twice the logits
    extras: Option<[&'a mut [f32]; 3]>,
}

impl<'a> Outputs<'a> {
    fn new(logps: SliceMut<'a, f32>, lse: SliceMut<'a, f32>, extras: Option<Extras<'a>>) -> Outputs<'a> {
        let extras =
            extras.map(|extras| [extras.entropy, extras.target_is_argmax, extras.lse_of_twice].map(SliceMut::cpu));
        Outputs { logps: logps.cpu(), lse: lse.cpu(), extras }
    }

    /// 0 where nothing is scored.
    fn set(&mut self, row: usize, scored: bool, total: &Total) {
        let value = |x: f64| if scored { x as f32 } else { 0.0 };
        let (max, log_sum) = (f64::from(total.max), total.sum.ln());
        self.lse[row] = value(max + log_sum);
        self.logps[row] = value(f64::from(total.target) - max - log_sum);
        if let Some([entropy, argmax, lse_of_twice]) = &mut self.extras {
            // rounding can push the entropy of a one-hot row below 0
            entropy[row] = value((log_sum - total.weighted / total.sum).max(0.0));
            argmax[row] = value(if total.target < total.max { 0.0 } else { 1.0 });
            lse_of_twice[row] = value(2.0 * max + total.sum_of_squares.ln());
        }
    }
}

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if let (Some(unit), Precision::Bf16) = (cpu.isa().unit(), call.precision) {
        return tiles::forward(device, cpu, unit, call);
    }
    let Forward { rows, hidden_size, vocab_size, hidden_states, lm_head, precision, .. } = call;
    let targets = call.targets.cpu();
    let logit = Logit { cap: call.final_logit_softcapping, temperature: call.temperature };
    let mut outputs = Outputs::new(call.logps, call.lse, call.extras);
    let with_extras = outputs.extras.is_some();
    let wide = cpu.widened(device, hidden_states)?;
    let hidden_states = Slice::of_cpu(&wide);
    let mut running = vec![Running::EMPTY; rows];
    let mut tile = device.alloc("token_logps.tile", rows.min(ROW_TILE) * vocab_size.min(VOCAB_TILE))?;
    device.install(|| {
        for first_row in (0..rows).step_by(ROW_TILE) {
            let m = ROW_TILE.min(rows - first_row);
            let x = hidden_states.range(first_row * hidden_size..(first_row + m) * hidden_size);
            for first in (0..vocab_size).step_by(VOCAB_TILE) {
                let n = VOCAB_TILE.min(vocab_size - first);
                gemm::Forward {
                    m,
                    n,
                    k: hidden_size,
                    alpha: 1.0,
                    x: x.into(),
                    w: lm_head.range(first * hidden_size..(first + n) * hidden_size),
                    y: tile.view_mut().range(0..m * n).into(),
                    accumulate: Accumulate::Set,
                    precision,
                }
                .run(device)?;
                let logits = tile.view_mut().cpu();
                let per_task = logits[..m * n]
                    .chunks_mut(ROWS_PER_TASK * n)
                    .zip(running[first_row..first_row + m].chunks_mut(ROWS_PER_TASK))
                    .zip(targets[first_row..first_row + m].chunks(ROWS_PER_TASK));
                cpu.for_each_block(per_task, |((logits, running), targets)| {
                    cpu.isa().dispatch(AddTile { logits, running, targets, first, logit, with_extras });
                });
            }
        }
        Ok(())
    })?;
    for (row, all) in running.iter().enumerate() {
        outputs.set(row, targets[row] != IGNORE, &all.into());
    }
    Ok(())
}

pub(super) fn backward(device: &Device, cpu: &Cpu, call: Backward<'_>) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if let (Some(unit), Precision::Bf16) = (cpu.isa().unit(), call.precision) {
        return tiles::backward(device, cpu, unit, call);
    }
    let Backward { rows, hidden_size, vocab_size, hidden_states, lm_head, precision, .. } = call;
    let (targets, lse, d_logps) = (call.targets.cpu(), call.lse.cpu(), call.d_logps.cpu());
    let logit = Logit { cap: call.final_logit_softcapping, temperature: call.temperature };
    let wide = cpu.widened(device, hidden_states)?;
    let hidden_states = Slice::of_cpu(&wide);
    cpu.in_f32(device, call.d_hidden, false, |d_hidden| {
        let mut d_hidden = SliceMut::of_cpu(d_hidden);
        let mut tile = device.alloc("token_logps.tile", rows.min(ROW_TILE) * vocab_size.min(VOCAB_TILE))?;
        device.install(|| {
            for first_row in (0..rows).step_by(ROW_TILE) {
                let m = ROW_TILE.min(rows - first_row);
                let block = first_row..first_row + m;
                let wide = first_row * hidden_size..(first_row + m) * hidden_size;
                for first in (0..vocab_size).step_by(VOCAB_TILE) {
                    let n = VOCAB_TILE.min(vocab_size - first);
                    let w = lm_head.range(first * hidden_size..(first + n) * hidden_size);
                    gemm::Forward {
                        m,
                        n,
                        k: hidden_size,
                        alpha: 1.0,
                        x: hidden_states.range(wide.clone()).into(),
                        w,
                        y: tile.view_mut().range(0..m * n).into(),
                        accumulate: Accumulate::Set,
                        precision,
                    }
                    .run(device)?;
                    let logits = tile.view_mut().cpu();
                    let per_task = logits[..m * n]
                        .chunks_mut(ROWS_PER_TASK * n)
                        .zip(targets[block.clone()].chunks(ROWS_PER_TASK))
                        .zip(lse[block.clone()].chunks(ROWS_PER_TASK))
                        .zip(d_logps[block.clone()].chunks(ROWS_PER_TASK));
                    cpu.for_each_block(per_task, |(((logits, targets), lse), d_logps)| {
                        cpu.isa().dispatch(LogitGradients { logits, targets, lse, d_logps, first, logit });
                    });
                    gemm::Dx {
                        m,
                        n,
                        k: hidden_size,
                        alpha: 1.0,
                        dy: crate::Columns::all(tile.view().range(0..m * n), n),
                        w,
                        dx: d_hidden.reborrow().range(wide.clone()).into(),
                        accumulate: if first == 0 { Accumulate::Set } else { Accumulate::Add },
                        precision,
                    }
                    .run(device)?;
                }
            }
            Ok(())
        })?;
        for (d_row, &target) in d_hidden.cpu().chunks_exact_mut(hidden_size).zip(targets) {
            if target == IGNORE {
                d_row.fill(0.0);
            }
        }
        Ok(())
    })
}

/// What the products of a tile in either direction make the threads keep.
pub(super) fn packed(cpu: &Cpu, precision: Precision, rows: usize, [vocab_size, hidden_size]: [usize; 2]) -> usize {
    let (rows, tokens) = (rows.min(ROW_TILE), vocab_size.min(VOCAB_TILE));
    let sizes = [[rows, tokens, hidden_size], [rows, hidden_size, tokens]];
    sizes.map(|sizes| gemm::packed(cpu, precision, sizes)).into_iter().max().unwrap_or(0)
}

/// What [`forward`], with or without extras, and [`backward`] take while they run.
pub(super) fn scratch(
    cpu: &Cpu,
    precision: Precision,
    dtype: FloatDtype,
    rows: usize,
    [vocab_size, hidden_size]: [usize; 2],
) -> ScratchBytes {
    if precision == Precision::Bf16 && cpu.isa().has_bf16_unit() {
        // packed rows in bf16, and for each thread some panels of weights and gradients of its rows
        let threads = cpu.threads() * (1 << 20);
        return ScratchBytes { forward: 2 * rows * hidden_size + threads, backward: threads };
    }
    let wide = if dtype == FloatDtype::Bf16 { rows * hidden_size * size_of::<f32>() } else { 0 };
    let tile = rows.min(ROW_TILE) * vocab_size.min(VOCAB_TILE) * size_of::<f32>();
    ScratchBytes { forward: wide + tile, backward: 2 * wide + tile }
}

/// Takes a tile of products of some rows into their running sums. They become logits in place.
struct AddTile<'a> {
    logits: &'a mut [f32],
    running: &'a mut [Running],
    targets: &'a [u32],
    /// The tile's first token.
    first: usize,
    logit: Logit,
    with_extras: bool,
}

impl VectorTask for AddTile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.logits.len() / self.running.len();
        for ((z, running), &target) in self.logits.chunks_exact_mut(n).zip(self.running).zip(self.targets) {
            if target == IGNORE {
                continue;
            }
            // SAFETY: `dispatch` runs this with the instruction set of S; `z` holds n floats.
            let tile = unsafe {
                if !self.logit.is_product() {
                    to_logits::<S>(z, self.logit);
                }
                let max = largest::<S>(z);
                if self.with_extras { sums::<S, true>(z, max) } else { sums::<S, false>(z, max) }
            };
            if let Some(&logit) = (target as usize).checked_sub(self.first).and_then(|at| z.get(at)) {
                running.target = logit;
            }
            running.add(tile);
        }
    }
}

/// Turns a tile of logits into their gradients: `d_logp ([v = target] - exp(z - lse)) dz/du`.
struct LogitGradients<'a> {
    logits: &'a mut [f32],
    targets: &'a [u32],
    lse: &'a [f32],
    d_logps: &'a [f32],
    first: usize,
    logit: Logit,
}

impl VectorTask for LogitGradients<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.logits.len() / self.targets.len();
        for (r, u) in self.logits.chunks_exact_mut(n).enumerate() {
            if self.targets[r] == IGNORE || self.d_logps[r] == 0.0 {
                u.fill(0.0);
                continue;
            }
            let at = (self.targets[r] as usize).checked_sub(self.first).filter(|&at| at < n);
            let of_target = at.map(|at| u[at]);
            let logit = self.logit;
            // SAFETY: `dispatch` runs this with the instruction set of S; every access is within the n floats of `u`.
            unsafe {
                logit_gradients::<S>(u, self.lse[r], self.d_logps[r], logit);
                if let (Some(at), Some(product)) = (at, of_target) {
                    // 1 - p by expm1, because a confident row's p is 1 to the last bit; z as the forward pass computed it
                    let z = S::reduce_max(logit.of::<S>(S::splat(product)));
                    u[at] = -self.d_logps[r] * (z - self.lse[r]).exp_m1() * logit.slope(z);
                }
            }
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn to_logits<S: Simd>(z: &mut [f32], logit: Logit) {
    // SAFETY: the caller's contract; loads and stores end inside `z`.
    unsafe {
        for at in (0..z.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(z.len() - at);
            let to = z.as_mut_ptr().add(at);
            S::store_partial(to, logit.of::<S>(S::load_partial(to, lanes)), lanes);
        }
    }
}

/// The sums of one tile relative to its maximum. Lane `l` adds the tokens `l` modulo the lanes, then the lanes are added.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn sums<S: Simd, const EXTRAS: bool>(z: &[f32], max: f32) -> Running {
    // SAFETY: the caller's contract; loads end inside `z`.
    unsafe {
        let whole = z.len() / S::LANES * S::LANES;
        let (mut sum, mut weighted, mut squares) = (S::splat(0.0), S::splat(0.0), S::splat(0.0));
        let top = S::splat(max);
        for at in (0..whole).step_by(S::LANES) {
            let below = S::sub(S::load(z.as_ptr().add(at)), top);
            let e = S::exp_nonpositive(below);
            sum = S::add(sum, e);
            if EXTRAS {
                weighted = S::fma(e, below, weighted);
                squares = S::fma(e, e, squares);
            }
        }
        let mut total = Running {
            max,
            sum: S::reduce_add(sum),
            weighted: S::reduce_add(weighted),
            sum_of_squares: S::reduce_add(squares),
            target: f32::NAN,
        };
        for &x in &z[whole..] {
            let below = x - max;
            let e = below.exp();
            total.sum += e;
            total.weighted += if e == 0.0 { 0.0 } else { e * below };
            total.sum_of_squares += e * e;
        }
        total
    }
}

/// All columns as if none were the target.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn logit_gradients<S: Simd>(u: &mut [f32], lse: f32, d_logp: f32, logit: Logit) {
    // SAFETY: the caller's contract; loads and stores end inside `u`.
    unsafe {
        for at in (0..u.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(u.len() - at);
            let to = u.as_mut_ptr().add(at);
            let raw = S::load_partial(to, lanes);
            let z = logit.of::<S>(raw);
            let g = S::mul(S::splat(-d_logp / logit.temperature), S::exp_nonpositive(S::sub(z, S::splat(lse))));
            let du = match logit.cap {
                None => g,
                Some(cap) => {
                    let t = S::mul(z, S::splat(logit.temperature / cap));
                    S::mul(g, S::sub(S::splat(1.0), S::mul(t, t)))
                }
            };
            S::store_partial(to, du, lanes);
        }
    }
}
