//! Computes blocks of sums in vectors. `vdpbf16ps` adds the products of a pair of the depth to 16 sums. Its operands are the left
//! operand's pair, repeated, and the right operand's pairs for 16 columns. The panels are the same as for the tiles of the matrix
//! unit.

use super::block_sum::{BLOCK, BlockSum, ColumnSums, LINES, Lines, STEP_PAIRS};
use std::arch::asm;
use std::arch::x86_64::*;

/// Largest number of steps of a block: a right panel of 12 steps is 24 KiB, and fits in a first-level cache of 32 KiB.
pub(super) const STEPS_PER_BLOCK: usize = 12;
/// Rows whose sums are in registers at once: 8 or 16 vectors of sums, beside one or two of the right operand. That is enough to
/// hide the latency of an instruction that can begin once a cycle, and each vector of the right operand is used in 8 products.
const ROWS: usize = 8;

/// Computes a block, as [`super::Unit::run`] does.
///
/// # Safety
/// As [`super::Unit::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn run(block: BlockSum) {
    // SAFETY: `run_vectors` requires only what the caller promises.
    unsafe {
        match block.cols {
            ..=16 => run_vectors::<1>(block),
            _ => run_vectors::<2>(block),
        }
    }
}

/// Computes the first `16 * V` columns of a block.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn run_vectors<const V: usize>(block: BlockSum) {
    let BlockSum { steps, count, left, right, from, to, rows, pairs, .. } = block;
    for first in (0..rows.min(BLOCK)).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        // SAFETY: the steps, the panels and the sums are valid, as the caller promises; every row is below BLOCK and has 32
        // floats.
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
                let pairs = if pairs.is_null() { STEP_PAIRS } else { usize::from(*pairs.add(index)) };
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

/// Implements [`ColumnSums`] with a vector for each column.
macro_rules! sums_in_vectors {
    ($vector:ty, $register:ident, $rows:tt, $repeat:literal, $zero:ident, $of:expr, $whole:expr) => {
        impl ColumnSums for [$vector; LINES] {
            const VECTOR_BYTES: usize = size_of::<$vector>();

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
            unsafe fn of(lines: [__m512i; LINES]) -> Self {
                let mut sums = [$zero(); LINES];
                for (sum, line) in sums.iter_mut().zip(lines) {
                    *sum = $of(line);
                }
                sums
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
            unsafe fn lines(&self) -> [__m512i; LINES] {
                let mut lines = [_mm512_setzero_si512(); LINES];
                for (line, sum) in lines.iter_mut().zip(self) {
                    *line = $whole(*sum);
                }
                lines
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
            unsafe fn add(&mut self, right: Lines, left: *const u8, steps: usize, pairs: usize, ahead: Lines) {
                debug_assert!((1..=STEP_PAIRS).contains(&pairs), "the loop below runs at least once");
                for step in 0..steps {
                    let (right, stride) = (right.0.wrapping_add(step * 64), right.1);
                    let left = left.wrapping_add(step * STEP_PAIRS * Self::VECTOR_BYTES);
                    let pairs = if step + 1 < steps { STEP_PAIRS } else { pairs };
                    // each of `l0` to `l3` addresses four lines: its own, and the next three, which are `stride` bytes apart
                    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = self;
                    // SAFETY: the lines and vectors of these steps can be read, by the contract of `ColumnSums::add`.
                    unsafe {
                        asm!(
                            "2:",
                            concat!("vmovdqa64 ", $rows, ", [{left}]"),
                            concat!("vdpbf16ps {s0}, ", $rows, ", dword ptr [{l0}]", $repeat),
                            concat!("vdpbf16ps {s1}, ", $rows, ", dword ptr [{l0} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s2}, ", $rows, ", dword ptr [{l0} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s3}, ", $rows, ", dword ptr [{l0} + {three}]", $repeat),
                            concat!("vdpbf16ps {s4}, ", $rows, ", dword ptr [{l1}]", $repeat),
                            concat!("vdpbf16ps {s5}, ", $rows, ", dword ptr [{l1} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s6}, ", $rows, ", dword ptr [{l1} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s7}, ", $rows, ", dword ptr [{l1} + {three}]", $repeat),
                            concat!("vdpbf16ps {s8}, ", $rows, ", dword ptr [{l2}]", $repeat),
                            concat!("vdpbf16ps {s9}, ", $rows, ", dword ptr [{l2} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s10}, ", $rows, ", dword ptr [{l2} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s11}, ", $rows, ", dword ptr [{l2} + {three}]", $repeat),
                            concat!("vdpbf16ps {s12}, ", $rows, ", dword ptr [{l3}]", $repeat),
                            concat!("vdpbf16ps {s13}, ", $rows, ", dword ptr [{l3} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s14}, ", $rows, ", dword ptr [{l3} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s15}, ", $rows, ", dword ptr [{l3} + {three}]", $repeat),
                            "add {l0}, 4",
                            "add {l1}, 4",
                            "add {l2}, 4",
                            "add {l3}, 4",
                            "add {left}, {vector}",
                            "dec {pairs}",
                            "jnz 2b",
                            out($rows) _,
                            left = inout(reg) left => _,
                            vector = const size_of::<$vector>(),
                            pairs = inout(reg) pairs => _,
                            stride = in(reg) stride,
                            three = in(reg) 3 * stride,
                            l0 = inout(reg) right => _,
                            l1 = inout(reg) right.wrapping_add(4 * stride) => _,
                            l2 = inout(reg) right.wrapping_add(8 * stride) => _,
                            l3 = inout(reg) right.wrapping_add(12 * stride) => _,
                            s0 = inout($register) *s0,
                            s1 = inout($register) *s1,
                            s2 = inout($register) *s2,
                            s3 = inout($register) *s3,
                            s4 = inout($register) *s4,
                            s5 = inout($register) *s5,
                            s6 = inout($register) *s6,
                            s7 = inout($register) *s7,
                            s8 = inout($register) *s8,
                            s9 = inout($register) *s9,
                            s10 = inout($register) *s10,
                            s11 = inout($register) *s11,
                            s12 = inout($register) *s12,
                            s13 = inout($register) *s13,
                            s14 = inout($register) *s14,
                            s15 = inout($register) *s15,
                            options(readonly, nostack),
                        );
                    }
                    for line in 0..LINES {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.0.wrapping_add(line * ahead.1 + step * 64).cast());
                    }
                }
            }
        }
    };
}

sums_in_vectors!(__m512, zmm_reg, "zmm31", "{{1to16}}", _mm512_setzero_ps, _mm512_castsi512_ps, _mm512_castps_si512);
sums_in_vectors!(
    __m256,
    ymm_reg,
    "ymm31",
    "{{1to8}}",
    _mm256_setzero_ps,
    |line| _mm256_castsi256_ps(_mm512_castsi512_si256(line)),
    |sum| _mm512_zextsi256_si512(_mm256_castps_si256(sum))
);

/// Reinterprets the bits as 32 bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits wide, and every bit pattern is valid for them.
    unsafe { std::mem::transmute(bits) }
}

/// Runs the unit at its limit on this thread: multiplies vectors that stay in registers. Returns the number of floating-point
/// operations.
///
/// # Safety
/// The processor has AVX-512 with bf16.
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
