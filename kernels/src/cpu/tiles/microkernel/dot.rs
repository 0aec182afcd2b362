//! Blocks of sums in vectors: `vdpbf16ps` adds to 16 sums the products of a pair of the depth, the left operand's pair
//! repeated, the right one's for 16 columns, which is how the tiles of the matrix unit lie too.

use super::{BLOCK, BlockSum};
use std::arch::x86_64::*;

/// A right panel of 12 steps is 24 KiB of a first-level cache of 32.
pub(super) const STEPS_PER_BLOCK: usize = 12;
/// Rows whose sums are in registers at once: 16 vectors of sums beside two of the right operand. Enough to hide the latency of
/// an instruction that begins once a cycle, and each vector of the right operand is loaded for 8 products.
const ROWS: usize = 8;
/// Pairs of a step.
const PAIRS: usize = 16;

/// As [`super::Unit::run`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn run(block: BlockSum) {
    // SAFETY: the caller's contract.
    unsafe {
        match block.cols {
            ..=16 => run_vectors::<1>(block),
            _ => run_vectors::<2>(block),
        }
    }
}

/// The first 16 `V` columns of a block.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn run_vectors<const V: usize>(block: BlockSum) {
    let BlockSum { steps, count, left, right, from, to, rows, pairs, .. } = block;
    for first in (0..rows.min(BLOCK)).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        // SAFETY: the caller's contract: rows below BLOCK of 32 floats.
        unsafe {
            if !from.0.is_null() {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let row = from.0.byte_add((first + i) * from.1);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(row.add(16 * v));
                    }
                }
            }
            let line = first / 16 * 1024 + first % 16 * 64;
            for index in 0..count {
                let step = *steps.add(index);
                let pairs = if pairs.is_null() { PAIRS } else { usize::from(*pairs.add(index)) };
                let (left, right) = (left.add(step.left + line), right.add(step.right));
                for pair in 0..pairs {
                    let mut columns = [bf16s(_mm512_setzero_si512()); V];
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = bf16s(_mm512_load_si512(right.add(1024 * v + 64 * pair).cast()));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = bf16s(_mm512_set1_epi32(*left.add(64 * i + 4 * pair).cast()));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = _mm512_dpbf16_ps(*sum, row, column);
                        }
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let row = to.0.byte_add((first + i) * to.1);
                for (v, sum) in sums.into_iter().enumerate() {
                    _mm512_storeu_ps(row.add(16 * v), sum);
                }
            }
        }
    }
}

/// The same bits as 32 bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits of any content.
    unsafe { std::mem::transmute(bits) }
}

/// The unit at its limit on this thread: products of vectors that stay in registers. Gives the floating-point operations done.
///
/// # Safety
/// The unit is there.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn burst(rounds: usize) -> f64 {
    const CHAINS: usize = 16;
    let mut sums: [__m512; CHAINS] = std::array::from_fn(|i| _mm512_set1_ps(i as f32));
    let bits = std::hint::black_box(0x3f80_bf81_u32 as i32);
    let (row, column) = (bf16s(_mm512_set1_epi32(bits)), bf16s(_mm512_set1_epi32(bits ^ 0x1234_4321)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, row, column);
        }
    }
    std::hint::black_box(sums);
    (rounds * CHAINS * 2 * 32) as f64
}
