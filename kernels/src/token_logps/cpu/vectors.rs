//! Log-probs of targets on vectors: the matrix product computes a block of logits, `[rows, tokens]`, and the softmax reads it.

use super::{Logit, Outputs, Running};
use crate::arena::taken;
use crate::cpu::Cpu;
use crate::cpu::vectors::{Simd, VectorTask, largest};
use crate::device::Cost;
use crate::gemm::{self, Accumulate};
use crate::token_logps::{Backward, Forward, Head};
use crate::{Buffer, Columns, Device, FloatDtype, IGNORE, Result, Slice, SliceMut};
use std::ops::Range;

/// Maximum number of tokens in a block. With 1024 rows, such a block has 2 MiB, which the second-level caches of two cores hold
/// until the softmax reads it. Twice as many tokens were 5 % slower.
const VOCAB_BLOCK: usize = 512;
/// Maximum number of rows in a block. This bounds a block to 4 MiB. With 2048 rows, packing the weights takes a twentieth of the
/// product's time.
const ROW_BLOCK: usize = 2048;
/// Number of rows that a thread processes at a time.
const ROWS_PER_TASK: usize = 16;

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    let Forward { head, logps, lse, extras } = call;
    let (targets, logit) = (head.targets.cpu(), Logit::new(&head));
    let mut outputs = Outputs::new(logps, lse, extras);
    let with_extras = outputs.extras.is_some();
    let wide = cpu.widened(device, head.hidden_states)?;
    let mut running = vec![Running::EMPTY; head.rows];
    let mut products = device.alloc("token_logps.block", block_len(&head))?;
    device.install(|| {
        for [rows, tokens] in blocks(&head) {
            let per_task = multiply(device, &head, &wide, [&rows, &tokens], &mut products)?
                .chunks_mut(ROWS_PER_TASK * tokens.len())
                .zip(running[rows.clone()].chunks_mut(ROWS_PER_TASK))
                .zip(targets[rows].chunks(ROWS_PER_TASK));
            cpu.for_each_block(per_task, |((logits, running), targets)| {
                cpu.isa().dispatch(AddBlock { logits, running, targets, first: tokens.start, logit, with_extras });
            });
        }
        Ok(())
    })?;
    for (row, all) in running.iter().enumerate() {
        outputs.set(row, targets[row] != IGNORE, &all.into());
    }
    Ok(())
}

pub(super) fn backward(device: &Device, cpu: &Cpu, call: Backward<'_>) -> Result<()> {
    let Backward { head, lse, d_logps, d_hidden } = call;
    let hidden_size = head.hidden_size;
    let (targets, lse, d_logps) = (head.targets.cpu(), lse.cpu(), d_logps.cpu());
    let logit = Logit::new(&head);
    let wide = cpu.widened(device, head.hidden_states)?;
    cpu.in_f32(device, d_hidden, false, |d_hidden| {
        let mut d_hidden = SliceMut::of_cpu(d_hidden);
        let mut products = device.alloc("token_logps.block", block_len(&head))?;
        device.install(|| {
            for [rows, tokens] in blocks(&head) {
                let (n, first) = (tokens.len(), tokens.start);
                let per_task = multiply(device, &head, &wide, [&rows, &tokens], &mut products)?
                    .chunks_mut(ROWS_PER_TASK * n)
                    .zip(targets[rows.clone()].chunks(ROWS_PER_TASK))
                    .zip(lse[rows.clone()].chunks(ROWS_PER_TASK))
                    .zip(d_logps[rows.clone()].chunks(ROWS_PER_TASK));
                cpu.for_each_block(per_task, |(((logits, targets), lse), d_logps)| {
                    cpu.isa().dispatch(LogitGradients { logits, targets, lse, d_logps, first, logit });
                });
                hidden_gradients(&head, products.view(), [&rows, &tokens], d_hidden.reborrow()).run(device)?;
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

/// Returns the rows and tokens of each block, with the rows in the outer loop.
fn blocks(head: &Head<'_>) -> impl Iterator<Item = [Range<usize>; 2]> + use<> {
    let (rows, vocab_size) = (head.rows, head.vocab_size);
    (0..rows).step_by(ROW_BLOCK).flat_map(move |row| {
        (0..vocab_size)
            .step_by(VOCAB_BLOCK)
            .map(move |token| [row..rows.min(row + ROW_BLOCK), token..vocab_size.min(token + VOCAB_BLOCK)])
    })
}

/// Returns how many numbers the largest block has.
fn block_len(head: &Head<'_>) -> usize {
    head.rows.min(ROW_BLOCK) * head.vocab_size.min(VOCAB_BLOCK)
}

/// Returns the call that multiplies some rows of the hidden states by the weights of some tokens. It sets the beginning of
/// `products`, `[rows, tokens]`.
fn logits<'a>(
    head: &Head<'a>,
    hidden_states: Slice<'a, f32>,
    [rows, tokens]: [&Range<usize>; 2],
    products: SliceMut<'a, f32>,
) -> gemm::Forward<'a> {
    let (m, n, k) = (rows.len(), tokens.len(), head.hidden_size);
    gemm::Forward {
        m,
        n,
        k,
        alpha: 1.0,
        x: hidden_states.range(rows.start * k..rows.end * k).into(),
        w: head.lm_head.range(tokens.start * k..tokens.end * k),
        y: products.range(0..m * n).into(),
        accumulate: Accumulate::Set,
        precision: head.precision,
    }
}

/// Returns the call that multiplies the gradients of logits by the weights of these tokens. It sets the gradients of the rows'
/// hidden states if the tokens are the first of the vocabulary, and adds to them otherwise.
fn hidden_gradients<'a>(
    head: &Head<'a>,
    products: Slice<'a, f32>,
    [rows, tokens]: [&Range<usize>; 2],
    d_hidden: SliceMut<'a, f32>,
) -> gemm::Dx<'a> {
    let (m, n, k) = (rows.len(), tokens.len(), head.hidden_size);
    gemm::Dx {
        m,
        n,
        k,
        alpha: 1.0,
        dy: Columns::all(products.range(0..m * n), n),
        w: head.lm_head.range(tokens.start * k..tokens.end * k),
        dx: d_hidden.range(rows.start * k..rows.end * k).into(),
        accumulate: if tokens.start == 0 { Accumulate::Set } else { Accumulate::Add },
        precision: head.precision,
    }
}

/// Runs the call of [`logits`] and returns the part of `products` that it set.
fn multiply<'a>(
    device: &Device,
    head: &Head<'_>,
    hidden_states: &[f32],
    [rows, tokens]: [&Range<usize>; 2],
    products: &'a mut Buffer<f32>,
) -> Result<&'a mut [f32]> {
    logits(head, Slice::of_cpu(hidden_states), [rows, tokens], products.view_mut()).run(device)?;
    Ok(products.view_mut().range(0..rows.len() * tokens.len()).cpu())
}

/// Returns the memory that [`forward`] needs.
pub(super) fn forward_cost(cpu: &Cpu, head: &Head<'_>) -> Cost {
    let mut cost = Cost { scratch: wide(head) + block_bytes(head), ..Cost::default() };
    for [rows, tokens] in different_blocks(head) {
        let hidden_states = Slice::counted(head.rows * head.hidden_size);
        let call = logits(head, hidden_states, [&rows, &tokens], SliceMut::counted(block_len(head)));
        cost.packed = cost.packed.and(gemm::forward_cost(cpu, call).packed);
    }
    cost
}

/// Returns the memory that [`backward`] needs.
pub(super) fn backward_cost(cpu: &Cpu, head: &Head<'_>) -> Cost {
    let mut cost = forward_cost(cpu, head);
    cost.scratch += wide(head);
    for [rows, tokens] in different_blocks(head) {
        let (products, d_hidden) = (Slice::counted(block_len(head)), SliceMut::counted(head.rows * head.hidden_size));
        let call = hidden_gradients(head, products, [&rows, &tokens], d_hidden);
        cost.packed = cost.packed.and(gemm::dx_cost(cpu, call).packed);
    }
    cost
}

/// Returns one block of each kind. Two blocks are of one kind if they have equal numbers of rows, equal numbers of tokens, and
/// both or neither begin with the first token of the vocabulary.
fn different_blocks(head: &Head<'_>) -> Vec<[Range<usize>; 2]> {
    let kind = |[rows, tokens]: &[Range<usize>; 2]| (rows.len(), tokens.len(), tokens.start == 0);
    let mut different: Vec<[Range<usize>; 2]> = Vec::new();
    for block in blocks(head) {
        if different.iter().all(|known| kind(known) != kind(&block)) {
            different.push(block);
        }
    }
    different
}

/// Returns the bytes of an f32 copy of the hidden states or of their gradients. 0 if they are f32 already.
fn wide(head: &Head<'_>) -> usize {
    match head.hidden_states.dtype() {
        FloatDtype::F32 => 0,
        FloatDtype::Bf16 => taken(head.rows * head.hidden_size * size_of::<f32>()),
    }
}

/// Returns the bytes of the largest block.
fn block_bytes(head: &Head<'_>) -> usize {
    taken(block_len(head) * size_of::<f32>())
}

/// Turns a block of products into logits, in place, and adds the logits to the running sums of their rows.
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

/// Replaces a block of products, in `logits`, by their gradients: `d_logp ([v = target] - exp(z - lse)) dz/du`.
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
                    // `exp_m1` computes 1 - p, since a confident row's p rounds to 1; z is computed as in the forward pass
                    let z = S::reduce_max(logit.of::<S>(S::splat(product)));
                    u[at] = -self.d_logps[r] * (z - self.lse[r]).exp_m1() * logit.slope(z);
                }
            }
        }
    }
}

/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
unsafe fn to_logits<S: Simd>(z: &mut [f32], logit: Logit) {
    // SAFETY: the processor has the instruction set of S; `lanes <= z.len() - at`, so loads and stores end inside `z`.
    unsafe {
        for at in (0..z.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(z.len() - at);
            let to = z.as_mut_ptr().add(at);
            S::store_partial(to, logit.of::<S>(S::load_partial(to, lanes)), lanes);
        }
    }
}

/// Returns the sums of one row over a block, relative to `max`, the row's largest logit in the block. Lane `l` adds every
/// `LANES`-th token from token `l` on. Then the lanes are added, and last the tokens that do not fill a vector.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
unsafe fn sums<S: Simd, const EXTRAS: bool>(z: &[f32], max: f32) -> Running {
    // SAFETY: the processor has the instruction set of S; loads end at `whole`, inside `z`.
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

/// Replaces the products of one row by their gradients, as if none were the target's.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
unsafe fn logit_gradients<S: Simd>(u: &mut [f32], lse: f32, d_logp: f32, logit: Logit) {
    // SAFETY: the processor has the instruction set of S; `lanes <= u.len() - at`, so loads and stores end inside `u`.
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
