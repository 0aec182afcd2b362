//! Operands rearranged for the microkernel: widened to f32, and rounded to bf16 if the precision asks for it.

use super::microkernel::TILE_VECTORS;
use crate::Precision;
use crate::cpu::vectors::{Loaded, Simd};
use crate::gemm::cpu::{Order, Right, Values};
use half::{bf16, f16};
use std::ops::Range;

/// Packs a block of the right operand into panels of [`panel_cols`] columns, one after the other. Each is `[depth, width]`; the
/// width of the last is [`panel_width`] of its columns. Lanes beyond `cols` hold values that no output uses.
///
/// # Safety
/// As [`Simd`]; the ranges are within `right`, which is `[all_depth, all_cols]`, and `panels` holds the panels.
#[inline(always)]
pub(super) unsafe fn right_panels<S: Simd>(
    right: Right<'_>,
    [all_depth, all_cols]: [usize; 2],
    depth: Range<usize>,
    cols: Range<usize>,
    precision: Precision,
    panels: *mut f32,
) {
    let len = packed_len::<S>(depth.len(), cols.len());
    let Right { values, order } = right;
    // SAFETY: the caller guarantees the instruction set of `S`, ranges within `right`, and room for the panels.
    unsafe {
        match (values, order) {
            (Values::F32(w), Order::Rows) => copied::<S, f32>(w, all_cols, depth, cols, panels),
            (Values::F16(w), Order::Rows) => copied::<S, f16>(w, all_cols, depth, cols, panels),
            (Values::Bf16(w), Order::Rows) => copied::<S, bf16>(w, all_cols, depth, cols, panels),
            (Values::F32(w), Order::Columns) => transposed::<S, f32>(w, all_depth, depth, cols, panels),
            (Values::F16(w), Order::Columns) => transposed::<S, f16>(w, all_depth, depth, cols, panels),
            (Values::Bf16(w), Order::Columns) => transposed::<S, bf16>(w, all_depth, depth, cols, panels),
        }
        if precision == Precision::Bf16 && !matches!(values, Values::Bf16(_)) {
            for at in (0..len).step_by(S::LANES) {
                S::store(panels.add(at), S::round_to_bf16(S::load(panels.add(at))));
            }
        }
    }
}

/// Columns of a full panel.
#[inline(always)]
pub(super) fn panel_cols<S: Simd>() -> usize {
    TILE_VECTORS * S::LANES
}

/// Floats in a row of the panel that holds `cols` columns: one vector if that is enough.
#[inline(always)]
pub(super) fn panel_width<S: Simd>(cols: usize) -> usize {
    if cols > S::LANES { TILE_VECTORS * S::LANES } else { S::LANES }
}

/// Floats that [`right_panels`] writes.
#[inline(always)]
pub(super) fn packed_len<S: Simd>(depth: usize, cols: usize) -> usize {
    depth * cols.next_multiple_of(S::LANES)
}

/// Copies a block of a `[_, all_cols]` matrix to rows that are `stride` apart, rounded to bf16 if the precision asks for it.
///
/// # Safety
/// As [`Simd`]; the ranges are within `from`, and `to` holds the copy.
#[inline(always)]
pub(super) unsafe fn copied_rows<S: Simd>(
    from: &[f32],
    all_cols: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    precision: Precision,
    to: *mut f32,
    stride: usize,
) {
    for (i, row) in rows.enumerate() {
        for first in (0..cols.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(cols.len() - first);
            // SAFETY: the caller guarantees that the ranges are within `from`, and that `to` holds the copy.
            unsafe {
                let v = S::load_partial(from.as_ptr().add(row * all_cols + cols.start + first), lanes);
                let v = if precision == Precision::Bf16 { S::round_to_bf16(v) } else { v };
                S::store_partial(to.add(i * stride + first), v, lanes);
            }
        }
    }
}

/// Elements from row to row of a copy: whole cache lines, an odd number of them, so that rows start in different sets.
pub(super) fn copied_stride(depth: usize) -> usize {
    16 * (depth.div_ceil(16) | 1)
}

/// Packs a block of a matrix `[all_depth, all_cols]`, row after row, so that memory is read in its order.
#[inline(always)]
unsafe fn copied<S: Simd, T: Loaded>(
    w: &[T],
    all_cols: usize,
    depth: Range<usize>,
    cols: Range<usize>,
    panels: *mut f32,
) {
    for (p, place) in depth.clone().enumerate() {
        for first in (0..cols.len()).step_by(panel_cols::<S>()) {
            let used = (cols.len() - first).min(panel_cols::<S>());
            let width = panel_width::<S>(used);
            // SAFETY: the columns `cols` of row `place` are within w, and the `width` elements at `to` are within the panel.
            unsafe {
                let from = w.as_ptr().add(place * all_cols + cols.start + first);
                let to = panels.add(first * depth.len() + p * width);
                if used == width {
                    for j in (0..width).step_by(S::LANES) {
                        S::store(to.add(j), T::load::<S>(from.add(j)));
                    }
                } else {
                    for j in 0..used {
                        *to.add(j) = (*from.add(j)).wide();
                    }
                }
            }
        }
    }
}

/// Packs a block of a matrix `[all_cols, all_depth]`, LANES columns at a time.
#[inline(always)]
unsafe fn transposed<S: Simd, T: Loaded>(
    w: &[T],
    all_depth: usize,
    depth: Range<usize>,
    cols: Range<usize>,
    panels: *mut f32,
) {
    let step = T::TRANSPOSED * S::LANES;
    let whole = depth.len() / step * step;
    for first in (0..cols.len()).step_by(S::LANES) {
        let panel = first / panel_cols::<S>() * panel_cols::<S>();
        let width = panel_width::<S>(cols.len() - panel);
        let last = (cols.len() - first).min(S::LANES) - 1;
        // SAFETY: columns up to `cols.start + first + last < cols.end` and depths below `depth.end` are within w; the lanes
        // `first .. first + LANES` of each of the panel's `depth.len()` rows are within the panel.
        unsafe {
            let from = w.as_ptr().add((cols.start + first) * all_depth + depth.start);
            let to = panels.add(panel * depth.len() + (first - panel));
            for p in (0..whole).step_by(step) {
                T::transpose::<S>(from.add(p), all_depth, last, to.add(p * width), width);
            }
            for i in 0..=last {
                for p in whole..depth.len() {
                    *to.add(p * width + i) = (*from.add(i * all_depth + p)).wide();
                }
            }
        }
    }
}
