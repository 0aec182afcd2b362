//! On vectors: a block of logits is `[rows, VOCAB_BLOCK]`, made by the matrix product.

use super::{Logit, Outputs, Running};
use crate::cpu::Cpu;
use crate::cpu::vectors::{Simd, VectorTask, largest};
use crate::gemm::{self, Accumulate};
use crate::token_logps::{Backward, Forward};
use crate::{Device, FloatDtype, IGNORE, Precision, Result, ScratchBytes, Slice, SliceMut};

/// Tokens of a block: with 1024 rows it is 2 MiB, which the second-level caches of two cores hold until the softmax reads it.
/// Twice as many were 5 % slower.
const VOCAB_BLOCK: usize = 512;
/// Rows of a block at most: it bounds the scratch to 4 MiB, and at 2048 rows the packing of the weights is a twentieth of the
/// product's time.
const ROW_BLOCK: usize = 2048;
/// Rows that one thread takes at a time.
const ROWS_PER_TASK: usize = 16;

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    let Forward { rows, hidden_size, vocab_size, hidden_states, lm_head, precision, .. } = call;
    let targets = call.targets.cpu();
    let logit = Logit { cap: call.final_logit_softcapping, temperature: call.temperature };
    let mut outputs = Outputs::new(call.logps, call.lse, call.extras);
    let with_extras = outputs.extras.is_some();
    let wide = cpu.widened(device, hidden_states)?;
    let hidden_states = Slice::of_cpu(&wide);
    let mut running = vec![Running::EMPTY; rows];
    let mut products = device.alloc("token_logps.block", rows.min(ROW_BLOCK) * vocab_size.min(VOCAB_BLOCK))?;
    device.install(|| {
        for first_row in (0..rows).step_by(ROW_BLOCK) {
            let m = ROW_BLOCK.min(rows - first_row);
            let x = hidden_states.range(first_row * hidden_size..(first_row + m) * hidden_size);
            for first in (0..vocab_size).step_by(VOCAB_BLOCK) {
                let n = VOCAB_BLOCK.min(vocab_size - first);
                gemm::Forward {
                    m,
                    n,
                    k: hidden_size,
                    alpha: 1.0,
                    x: x.into(),
                    w: lm_head.range(first * hidden_size..(first + n) * hidden_size),
                    y: products.view_mut().range(0..m * n).into(),
                    accumulate: Accumulate::Set,
                    precision,
                }
                .run(device)?;
                let logits = products.view_mut().cpu();
                let per_task = logits[..m * n]
                    .chunks_mut(ROWS_PER_TASK * n)
                    .zip(running[first_row..first_row + m].chunks_mut(ROWS_PER_TASK))
                    .zip(targets[first_row..first_row + m].chunks(ROWS_PER_TASK));
                cpu.for_each_block(per_task, |((logits, running), targets)| {
                    cpu.isa().dispatch(AddBlock { logits, running, targets, first, logit, with_extras });
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
    let Backward { rows, hidden_size, vocab_size, hidden_states, lm_head, precision, .. } = call;
    let (targets, lse, d_logps) = (call.targets.cpu(), call.lse.cpu(), call.d_logps.cpu());
    let logit = Logit { cap: call.final_logit_softcapping, temperature: call.temperature };
    let wide = cpu.widened(device, hidden_states)?;
    let hidden_states = Slice::of_cpu(&wide);
    cpu.in_f32(device, call.d_hidden, false, |d_hidden| {
        let mut d_hidden = SliceMut::of_cpu(d_hidden);
        let mut products = device.alloc("token_logps.block", rows.min(ROW_BLOCK) * vocab_size.min(VOCAB_BLOCK))?;
        device.install(|| {
            for first_row in (0..rows).step_by(ROW_BLOCK) {
                let m = ROW_BLOCK.min(rows - first_row);
                let block = first_row..first_row + m;
                let wide = first_row * hidden_size..(first_row + m) * hidden_size;
                for first in (0..vocab_size).step_by(VOCAB_BLOCK) {
                    let n = VOCAB_BLOCK.min(vocab_size - first);
                    let w = lm_head.range(first * hidden_size..(first + n) * hidden_size);
                    gemm::Forward {
                        m,
                        n,
                        k: hidden_size,
                        alpha: 1.0,
                        x: hidden_states.range(wide.clone()).into(),
                        w,
                        y: products.view_mut().range(0..m * n).into(),
                        accumulate: Accumulate::Set,
                        precision,
                    }
                    .run(device)?;
                    let logits = products.view_mut().cpu();
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
                        dy: crate::Columns::all(products.view().range(0..m * n), n),
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

/// What the products of a block in either direction make the threads keep.
pub(in crate::token_logps) fn packed(
    cpu: &Cpu,
    precision: Precision,
    rows: usize,
    [vocab_size, hidden_size]: [usize; 2],
) -> usize {
    let (rows, tokens) = (rows.min(ROW_BLOCK), vocab_size.min(VOCAB_BLOCK));
    let sizes = [[rows, tokens, hidden_size], [rows, hidden_size, tokens]];
    sizes.map(|sizes| gemm::packed(cpu, precision, sizes)).into_iter().max().unwrap_or(0)
}

/// What [`forward`] and [`backward`] take while they run.
pub(super) fn scratch(dtype: FloatDtype, rows: usize, [vocab_size, hidden_size]: [usize; 2]) -> ScratchBytes {
    let wide = if dtype == FloatDtype::Bf16 { rows * hidden_size * size_of::<f32>() } else { 0 };
    let products = rows.min(ROW_BLOCK) * vocab_size.min(VOCAB_BLOCK) * size_of::<f32>();
    ScratchBytes { forward: wide + products, backward: 2 * wide + products }
}

/// Takes a block of products of some rows into their running sums. They become logits in place.
struct AddBlock<'a> {
    logits: &'a mut [f32],
    running: &'a mut [Running],
    targets: &'a [u32],
    /// The block's first token.
    first: usize,
    logit: Logit,
    with_extras: bool,
}

impl VectorTask for AddBlock<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.logits.len() / self.running.len();
        for ((z, running), &target) in self.logits.chunks_exact_mut(n).zip(self.running).zip(self.targets) {
            if target == IGNORE {
                continue;
            }
            // SAFETY: `dispatch` runs this with the instruction set of S; `z` holds n floats.
            let sums = unsafe {
                if !self.logit.is_product() {
                    to_logits::<S>(z, self.logit);
                }
                let max = largest::<S>(z);
                if self.with_extras { sums::<S, true>(z, max) } else { sums::<S, false>(z, max) }
            };
            if let Some(&logit) = (target as usize).checked_sub(self.first).and_then(|at| z.get(at)) {
                running.target = logit;
            }
            running.add(sums);
        }
    }
}

/// Turns a block of logits into their gradients: `d_logp ([v = target] - exp(z - lse)) dz/du`.
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

/// The sums of one block relative to its maximum. Lane `l` adds the tokens `l` modulo the lanes, then the lanes are added.
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
