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
    let BlockSum { steps, count, left, right, from, to, rows, .. } = block;
    for first in (0..rows.min(BLOCK)).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: the caller's contract: rows below BLOCK of 32 floats.
        unsafe {
            if !from.0.is_null() {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let row = from.0.byte_add((first + i) * from.1);
                    *sums = [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16))];
                }
            }
            let line = first / 16 * 1024 + first % 16 * 64;
            for step in 0..count {
                let step = *steps.add(step);
                let (left, right) = (left.add(step.left + line), right.add(step.right));
                for pair in 0..PAIRS {
                    let columns = [0, 1024].map(|tile| bf16s(_mm512_load_si512(right.add(tile + 64 * pair).cast())));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let row = bf16s(_mm512_set1_epi32(*left.add(64 * i + 4 * pair).cast()));
                        *sums =
                            [_mm512_dpbf16_ps(sums[0], row, columns[0]), _mm512_dpbf16_ps(sums[1], row, columns[1])];
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let row = to.0.byte_add((first + i) * to.1);
                _mm512_storeu_ps(row, sums[0]);
                _mm512_storeu_ps(row.add(16), sums[1]);
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
