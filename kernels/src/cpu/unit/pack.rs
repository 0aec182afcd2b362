//! Packs operands as a unit that multiplies bf16 reads them: in panels of 32 rows (left) or 32 columns (right). A panel holds
//! steps of 32 of the depth, one after the other. Each term of a step is two tiles of 16 lines of 64 bytes.
//!
//! A line of a left tile is a row, 32 deep. A line of a right tile is a pair of the depth, 16 columns wide. A number is one bf16
//! term or the sum of up to three, each of which rounds what the terms before it left.

use super::block_sum::{BLOCK, LINES, STEP_BYTES, STEP_DEPTH};
use half::{bf16, f16};
use std::arch::x86_64::*;
use std::ops::Range;

/// An operand in memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<T> {
    pub(crate) at: *const T,
    /// Elements from one line to the next.
    pub(crate) stride: usize,
    /// Rows of a left operand, columns of a right one.
    pub(crate) side: usize,
    pub(crate) depth: usize,
}

/// Which operand of a product a matrix becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Left,
    Right,
}

/// A number format of operands.
pub(crate) trait Element: Copy {
    /// Whether the format is bf16, so that a number is its own term.
    const IS_BF16: bool = false;
    /// Splits 32 numbers into terms.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `at` points at 32 numbers.
    unsafe fn all_terms<const T: usize>(at: *const Self) -> [__m512i; T];
    /// Splits `len <= 32` numbers into terms. The lanes beyond `len` are 0.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `at` points at `len` numbers.
    unsafe fn terms<const T: usize>(at: *const Self, len: usize) -> [__m512i; T];
}

impl Element for bf16 {
    const IS_BF16: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn all_terms<const T: usize>(at: *const bf16) -> [__m512i; T] {
        let mut terms = [_mm512_setzero_si512(); T];
        // SAFETY: `at` points at 32 numbers, by the contract of `Element::all_terms`.
        terms[0] = unsafe { _mm512_loadu_si512(at.cast()) };
        terms
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn terms<const T: usize>(at: *const bf16, len: usize) -> [__m512i; T] {
        let mut terms = [_mm512_setzero_si512(); T];
        // SAFETY: the mask reads only the first `len` numbers.
        terms[0] = unsafe { _mm512_maskz_loadu_epi16(first(len), at.cast()) };
        terms
    }
}

impl Element for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn all_terms<const T: usize>(at: *const f16) -> [__m512i; T] {
        // SAFETY: `at` points at 32 numbers, by the contract of `Element::all_terms`.
        let all = unsafe { _mm512_loadu_si512(at.cast()) };
        let low = _mm512_cvtph_ps(_mm512_castsi512_si256(all));
        let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(all));
        split(low, high)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn terms<const T: usize>(at: *const f16, len: usize) -> [__m512i; T] {
        // SAFETY: the mask reads only the first `len` numbers.
        let all = unsafe { _mm512_maskz_loadu_epi16(first(len), at.cast()) };
        let low = _mm512_cvtph_ps(_mm512_castsi512_si256(all));
        let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(all));
        split(low, high)
    }
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn all_terms<const T: usize>(at: *const f32) -> [__m512i; T] {
        // SAFETY: `at` points at 32 numbers, by the contract of `Element::all_terms`.
        unsafe { split(_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn terms<const T: usize>(at: *const f32, len: usize) -> [__m512i; T] {
        let mask = first(len);
        // SAFETY: the mask reads only the first `len` numbers.
        let (low, high) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask as __mmask16, at),
                _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, at.wrapping_add(16)),
            )
        };
        split(low, high)
    }
}

/// Returns a mask of the first `len <= 32` lanes.
#[inline]
fn first(len: usize) -> __mmask32 {
    ((1u64 << len) - 1) as __mmask32
}

/// Splits each of 32 numbers into `T` bf16 terms.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split<const T: usize>(mut low: __m512, mut high: __m512) -> [__m512i; T] {
    let mut terms = [_mm512_setzero_si512(); T];
    for (i, term) in terms.iter_mut().enumerate() {
        // SAFETY: both types are 512 bits wide, and every bit pattern is valid for them.
        *term = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
        if i + 1 < T {
            low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(*term)));
            high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64::<1>(*term)));
        }
    }
    terms
}

/// Widens 16 bf16 to f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn widen(values: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values)))
}

/// Bytes of a panel whose numbers have `terms` terms each.
pub(crate) fn panel_bytes(depth: usize, terms: usize) -> usize {
    depth.div_ceil(STEP_DEPTH) * terms * STEP_BYTES
}

/// Packs panels `panels` of a matrix whose lines are along the depth: `x` of a layer, or `w` in the forward product. Each panel
/// begins `bytes` bytes after the one before.
///
/// # Safety
/// The processor has AVX-512 with bf16; `matrix.at` points at a matrix of these sizes; `to` has room for all panels, and each
/// panel begins at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn along_depth<E: Element, const T: usize>(
    matrix: Matrix<E>,
    role: Role,
    panels: Range<usize>,
    to: *mut u8,
    bytes: usize,
) {
    for (index, panel) in panels.enumerate() {
        for step in 0..matrix.depth.div_ceil(STEP_DEPTH) {
            let depth = step * STEP_DEPTH;
            let len = (matrix.depth - depth).min(STEP_DEPTH);
            for tile in 0..2 {
                let start = panel * BLOCK + tile * LINES;
                let at = index * bytes + step * T * STEP_BYTES + tile * 1024;
                if start + LINES <= matrix.side && len == STEP_DEPTH {
                    // SAFETY: `start + LINES <= matrix.side` and `len == STEP_DEPTH`, so the lines are inside the matrix; `at` is
                    // the offset of a tile of the panel.
                    unsafe {
                        let from = matrix.at.add(start * matrix.stride + depth);
                        // 32 lines side by side are more streams than a processor prefetches by itself
                        let ahead = (panel + 1) * BLOCK < matrix.side;
                        whole_tile::<E, T>(from, matrix.stride, role, to.add(at), ahead);
                    }
                    continue;
                }
                let mut lines = [[_mm512_setzero_si512(); LINES]; T];
                for i in 0..LINES {
                    let len = if start + i < matrix.side { len } else { 0 };
                    let from = matrix.at.wrapping_add((start + i) * matrix.stride + depth);
                    // SAFETY: this reads `len` numbers of line `start + i`, and none if `start + i >= matrix.side`.
                    let terms: [_; T] = unsafe { E::terms(from, len) };
                    for t in 0..T {
                        lines[t][i] = terms[t];
                    }
                }
                for t in 0..T {
                    let lines = if role == Role::Right { transposed(lines[t]) } else { lines[t] };
                    // SAFETY: `at` is the offset of a tile of the panel, and the tiles of the other terms follow it, `STEP_BYTES`
                    // apart.
                    unsafe { store(lines, to.add(at + t * STEP_BYTES)) };
                }
            }
        }
    }
}

/// Packs a tile of 16 whole lines of 32 numbers, which stay in registers throughout. The tiles of its terms are [`STEP_BYTES`]
/// apart. With `ahead`, prefetches the lines of the next panel.
///
/// # Safety
/// As [`along_depth`]; `from` points at the first of 16 lines of 32 numbers of the matrix, and `to` points at a tile of the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn whole_tile<E: Element, const T: usize>(from: *const E, stride: usize, role: Role, to: *mut u8, ahead: bool) {
    let mut lines = [[_mm512_setzero_si512(); LINES]; T];
    for i in 0..LINES {
        // SAFETY: `from` points at the first of 16 lines of 32 numbers, as the caller promises.
        let terms: [_; T] = unsafe { E::all_terms(from.add(i * stride)) };
        for t in 0..T {
            lines[t][i] = terms[t];
        }
    }
    if ahead {
        for i in 0..LINES {
            prefetch(from.wrapping_add((BLOCK + i) * stride), STEP_DEPTH);
        }
    }
    for (t, lines) in lines.into_iter().enumerate() {
        let lines = if role == Role::Right { transposed(lines) } else { lines };
        // SAFETY: `to` points at a tile of the panel, as the caller promises, and the tiles of the other terms follow it,
        // `STEP_BYTES` apart.
        unsafe { store(lines, to.add(t * STEP_BYTES)) };
    }
}

/// Packs panels `panels` of a matrix whose lines are across the depth: `w` in the backward product, or either side of an
/// adapter's gradient. Each panel begins `bytes` bytes after the one before.
///
/// # Safety
/// As [`along_depth`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn across_depth<E: Element, const T: usize>(
    matrix: Matrix<E>,
    role: Role,
    panels: Range<usize>,
    to: *mut u8,
    bytes: usize,
) {
    // each line is read once, in pieces as long as the panels are wide; the lines of a right operand need not be transposed
    for step in 0..matrix.depth.div_ceil(STEP_DEPTH) {
        for (index, panel) in panels.clone().enumerate() {
            let start = panel * BLOCK;
            let len = (matrix.side - start).min(BLOCK);
            let mut lines = [[[_mm512_setzero_si512(); LINES]; 2]; T];
            for pair in 0..LINES {
                let depth = step * STEP_DEPTH + 2 * pair;
                let whole = len == BLOCK && depth + 2 <= matrix.depth;
                let both: [[_; T]; 2] = if whole {
                    let at = matrix.at.wrapping_add(depth * matrix.stride + start);
                    prefetch(at.wrapping_add(AHEAD * BLOCK), BLOCK);
                    prefetch(at.wrapping_add(matrix.stride + AHEAD * BLOCK), BLOCK);
                    // SAFETY: `len == BLOCK` and `depth + 2 <= matrix.depth`, so this reads 32 numbers of two lines of the
                    // matrix.
                    unsafe { [E::all_terms(at), E::all_terms(at.add(matrix.stride))] }
                } else {
                    let mut both = [[_mm512_setzero_si512(); T]; 2];
                    for (i, terms) in both.iter_mut().enumerate().take(matrix.depth.saturating_sub(depth)) {
                        // SAFETY: `depth + i < matrix.depth` and `start + len <= matrix.side`: the read ends inside that line.
                        *terms = unsafe { E::terms(matrix.at.add((depth + i) * matrix.stride + start), len) };
                    }
                    both
                };
                for t in 0..T {
                    let pairs = interleaved(both[0][t], both[1][t]);
                    match role {
                        Role::Left => [lines[t][0][pair], lines[t][1][pair]] = pairs,
                        Role::Right => {
                            for (tile, line) in pairs.into_iter().enumerate() {
                                let at = index * bytes + (step * T + t) * STEP_BYTES + tile * 1024 + 64 * pair;
                                // SAFETY: `at` is the offset of line `pair` of a tile of the panel.
                                unsafe { _mm512_store_si512(to.add(at).cast(), line) };
                            }
                        }
                    }
                }
            }
            if role == Role::Right {
                continue;
            }
            for (t, lines) in lines.into_iter().enumerate() {
                for (tile, lines) in lines.into_iter().enumerate() {
                    let at = index * bytes + (step * T + t) * STEP_BYTES + tile * 1024;
                    // SAFETY: `at` is the offset of a tile of the panel.
                    unsafe { store(transposed(lines), to.add(at)) };
                }
            }
        }
    }
}

/// How many panels ahead [`across_depth`] prefetches its lines.
const AHEAD: usize = 4;

/// Prefetches `len` elements into the second-level cache. The address need not be valid.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn prefetch<E>(at: *const E, len: usize) {
    for line in (0..len * size_of::<E>()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_byte_add(line).cast());
    }
}

/// Returns the two halves of `a[0] b[0] a[1] b[1] ...`, where `a` and `b` are 32 bf16 each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn interleaved(a: __m512i, b: __m512i) -> [__m512i; 2] {
    const fn order(from: u16) -> [u16; 32] {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = from + i as u16;
            order[2 * i + 1] = 32 + from + i as u16;
            i += 1;
        }
        order
    }
    const ORDERS: [[u16; 32]; 2] = [order(0), order(16)];
    ORDERS.map(|order| {
        // SAFETY: this reads 64 bytes, which is the whole array.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        _mm512_permutex2var_epi16(a, order, b)
    })
}

/// Writes a tile.
///
/// # Safety
/// `to` points at a tile of 1024 bytes, at a multiple of 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn store(lines: [__m512i; LINES], to: *mut u8) {
    for (i, line) in lines.into_iter().enumerate() {
        // SAFETY: `i < LINES`, so this is line `i` of the tile at `to`, which the caller guarantees.
        unsafe { _mm512_store_si512(to.add(64 * i).cast(), line) };
    }
}

/// Transposes 16 lines of 16 words of 32 bits, in four rounds of exchanges.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn transposed(lines: [__m512i; LINES]) -> [__m512i; LINES] {
    let zero = _mm512_setzero_si512();
    let (mut a, mut b) = ([zero; LINES], [zero; LINES]);
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(lines[2 * i], lines[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(lines[2 * i], lines[2 * i + 1]);
    }
    for i in 0..4 {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // b[4 i + c], quarter q: column 4 q + c of lines 4 i to 4 i + 3
    for c in 0..4 {
        a[c] = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
        a[4 + c] = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
        a[8 + c] = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
        a[12 + c] = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
    }
    for c in 0..4 {
        b[c] = _mm512_shuffle_i32x4::<0x88>(a[c], a[8 + c]);
        b[8 + c] = _mm512_shuffle_i32x4::<0xdd>(a[c], a[8 + c]);
        b[4 + c] = _mm512_shuffle_i32x4::<0x88>(a[4 + c], a[12 + c]);
        b[12 + c] = _mm512_shuffle_i32x4::<0xdd>(a[4 + c], a[12 + c]);
    }
    b
}
