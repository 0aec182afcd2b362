//! Operands rearranged for the microkernel: widened to f32, and rounded to bf16 where the precision says so.

use super::microkernel::tile_rows;
use super::{Order, Product, Right, Values};
use crate::Precision;
use crate::cpu::simd::Simd;
use half::{bf16, f16};
use std::ops::Range;

/// Packs a block of the right operand into a panel `[depth, NV * LANES]`. Lanes beyond `cols` hold values that no output takes.
///
/// # Safety
/// As [`Simd`]; the ranges are within the product's right operand, and `panel` holds the panel.
#[inline(always)]
pub(super) unsafe fn right_panel<S: Simd, const NV: usize>(
    product: &Product<'_>,
    depth: Range<usize>,
    cols: Range<usize>,
    panel: *mut f32,
) {
    let len = depth.len() * NV * S::LANES;
    let Right { values, order } = product.right;
    // SAFETY: the caller's contract.
    unsafe {
        match (values, order) {
            (Values::F32(w), Order::Rows) => copied::<S, f32, NV>(w, product.cols, depth, cols, panel),
            (Values::F16(w), Order::Rows) => copied::<S, f16, NV>(w, product.cols, depth, cols, panel),
            (Values::Bf16(w), Order::Rows) => copied::<S, bf16, NV>(w, product.cols, depth, cols, panel),
            (Values::F32(w), Order::Columns) => transposed::<S, f32, NV>(w, product.depth, depth, cols, panel),
            (Values::F16(w), Order::Columns) => transposed::<S, f16, NV>(w, product.depth, depth, cols, panel),
            (Values::Bf16(w), Order::Columns) => transposed::<S, bf16, NV>(w, product.depth, depth, cols, panel),
        }
        if product.precision == Precision::Bf16 && !matches!(values, Values::Bf16(_)) {
            for at in (0..len).step_by(S::LANES) {
                S::store(panel.add(at), S::round_to_bf16(S::load(panel.add(at))));
            }
        }
    }
}

/// Copies rows of a `[_, stride]` matrix, a block of its columns, to `[rows, depth]`.
///
/// # Safety
/// As [`Simd`]; the ranges are within `from`, and `to` holds the copy.
#[inline(always)]
pub(super) unsafe fn left_rows<S: Simd>(
    from: &[f32],
    stride: usize,
    rows: Range<usize>,
    depth: Range<usize>,
    precision: Precision,
    to: *mut f32,
) {
    for (i, row) in rows.enumerate() {
        // SAFETY: the caller's contract.
        unsafe {
            copy_floats::<S>(
                from.as_ptr().add(row * stride + depth.start),
                to.add(i * depth.len()),
                depth.len(),
                precision,
            );
        }
    }
}

/// Packs a block of a `[_, stride]` matrix, whose rows are the depth and whose columns are the rows of the product, into tiles
/// `[depth, tile rows]` one after the other.
///
/// # Safety
/// As [`left_rows`].
#[inline(always)]
pub(super) unsafe fn left_columns<S: Simd>(
    from: &[f32],
    stride: usize,
    rows: Range<usize>,
    depth: Range<usize>,
    precision: Precision,
    to: *mut f32,
) {
    let len = depth.len();
    for (p, place) in depth.enumerate() {
        let mut row = rows.start;
        while row < rows.end {
            let height = tile_rows::<S>(rows.end - row);
            // SAFETY: the caller's contract; the tiles before this one hold `row - rows.start` rows of `len` each.
            unsafe {
                let source = from.as_ptr().add(place * stride + row);
                copy_floats::<S>(source, to.add((row - rows.start) * len + p * height), height, precision);
            }
            row += height;
        }
    }
}

#[inline(always)]
unsafe fn copy_floats<S: Simd>(from: *const f32, to: *mut f32, len: usize, precision: Precision) {
    let mut at = 0;
    while at < len {
        let lanes = S::LANES.min(len - at);
        // SAFETY: `at + lanes <= len`.
        unsafe {
            let mut v = if lanes == S::LANES { S::load(from.add(at)) } else { S::load_partial(from.add(at), lanes) };
            if precision == Precision::Bf16 {
                v = S::round_to_bf16(v);
            }
            if lanes == S::LANES {
                S::store(to.add(at), v);
            } else {
                S::store_partial(to.add(at), v, lanes);
            }
        }
        at += lanes;
    }
}

/// A format that weights are stored in.
trait Stored: Copy {
    /// Depth of the block that `transpose` takes, in vectors.
    const BLOCK: usize;
    fn widen(self) -> f32;
    /// # Safety
    /// As [`Simd`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;
    /// # Safety
    /// As [`Simd::transpose_f32`].
    unsafe fn transpose<S: Simd>(from: *const Self, stride: usize, last_row: usize, to: *mut f32, to_stride: usize);
}

macro_rules! stored {
    ($t:ty, $block:literal, $widen:expr, $load:ident, $transpose:ident) => {
        impl Stored for $t {
            const BLOCK: usize = $block;
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const $t) -> S::V {
                // SAFETY: the caller's contract.
                unsafe { S::$load(from) }
            }
            #[inline(always)]
            unsafe fn transpose<S: Simd>(from: *const $t, stride: usize, last: usize, to: *mut f32, to_stride: usize) {
                // SAFETY: the caller's contract.
                unsafe { S::$transpose(from, stride, last, to, to_stride) }
            }
        }
    };
}
stored!(f32, 1, |x| x, load, transpose_f32);
stored!(f16, 2, f16::to_f32, load_f16, transpose_f16);
stored!(bf16, 2, bf16::to_f32, load_bf16, transpose_bf16);

/// From `[depth, all_cols]`.
#[inline(always)]
unsafe fn copied<S: Simd, T: Stored, const NV: usize>(
    w: &[T],
    all_cols: usize,
    depth: Range<usize>,
    cols: Range<usize>,
    panel: *mut f32,
) {
    let width = NV * S::LANES;
    for (p, place) in depth.enumerate() {
        // SAFETY: the caller's contract: `place * all_cols + cols.end` is within w, `(p + 1) * width` within the panel.
        unsafe {
            let row = w.as_ptr().add(place * all_cols + cols.start);
            if cols.len() == width {
                for j in 0..NV {
                    S::store(panel.add(p * width + j * S::LANES), T::load::<S>(row.add(j * S::LANES)));
                }
            } else {
                for j in 0..cols.len() {
                    *panel.add(p * width + j) = (*row.add(j)).widen();
                }
            }
        }
    }
}

/// From `[cols, all_depth]`.
#[inline(always)]
unsafe fn transposed<S: Simd, T: Stored, const NV: usize>(
    w: &[T],
    all_depth: usize,
    depth: Range<usize>,
    cols: Range<usize>,
    panel: *mut f32,
) {
    let width = NV * S::LANES;
    let step = T::BLOCK * S::LANES;
    let whole = depth.len() / step * step;
    for first in (0..cols.len()).step_by(S::LANES) {
        let last = (cols.len() - first).min(S::LANES) - 1;
        // SAFETY: rows up to `cols.start + first + last < cols.end` and places below `depth.end` are within w; the lanes
        // `first .. first + LANES` of the panel's `depth.len()` rows within the panel.
        unsafe {
            let from = w.as_ptr().add((cols.start + first) * all_depth + depth.start);
            for p in (0..whole).step_by(step) {
                T::transpose::<S>(from.add(p), all_depth, last, panel.add(p * width + first), width);
            }
            for i in 0..=last {
                for p in whole..depth.len() {
                    *panel.add(p * width + first + i) = (*from.add(i * all_depth + p)).widen();
                }
            }
        }
    }
}
