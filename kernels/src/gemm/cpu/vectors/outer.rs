//! The gradient of an adapter, `output[rows, cols] (+)= alpha * Σ_p left[p, rows] ⊗ right[p, cols]`: a sum of outer products.
//!
//! One side is the rank of the adapter and is narrow, the other is wide. The narrow side becomes the rows of the tiles, the wide
//! side their columns. The depth is cut into short blocks, so that memory is read once and the sums stay in the second-level
//! cache. Both sides are read in place, unless values must be rounded or the columns are not whole vectors. If the output is
//! `[cols, rows]`, the sums are transposed at the end.

use super::microkernel::{self, LeftTile, RightPanel, Store, tile_rows};
use super::{Cut, pack};
use crate::Precision;
use crate::cpu::Cpu;
use crate::cpu::vectors::{Simd, VectorTask};
use crate::gemm::Accumulate;
use crate::gemm::cpu::scratch::Scratch;
use crate::gemm::cpu::{Order, Right, Values};
use std::ops::Range;

/// Depth of a block: 64 rows of a panel are at most 8 KiB, and 64 rows of a task's columns are at most 64 KiB.
const OUTER_DEPTH: usize = 64;

pub(super) struct OuterSum<'a> {
    pub(super) depth: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: Accumulate,
    pub(super) precision: Precision,
    /// `[depth, rows]`
    pub(super) left: &'a [f32],
    /// `[depth, cols]`
    pub(super) right: &'a [f32],
    /// `[rows, cols]`, or `[cols, rows]` if it is `turned`
    pub(super) output: *mut f32,
    pub(super) turned: bool,
}

// SAFETY: tasks write disjoint elements of the output, and the caller's exclusive borrow of it outlives all tasks.
unsafe impl Sync for OuterSum<'_> {}

impl OuterSum<'_> {
    pub(super) fn run(&self, cpu: &Cpu) {
        Cut::new(cpu, [self.rows, self.cols, self.depth])
            .run(cpu, |rows, cols, scratch| cpu.isa().dispatch(OuterBlock { sum: self, rows, cols, scratch }));
    }
}

/// Returns the floats that a block of `rows` rows and `cols` columns needs in each area of a thread's scratch.
pub(super) struct Areas {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl VectorTask for Areas {
    type Output = [usize; 3];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [usize; 3] {
        [OUTER_DEPTH * self.rows, OUTER_DEPTH * pack::panel_cols::<S>(), self.rows * self.cols]
    }
}

struct OuterBlock<'a> {
    sum: &'a OuterSum<'a>,
    rows: Range<usize>,
    /// Starts at a panel's first column.
    cols: Range<usize>,
    scratch: &'a mut Scratch,
}

impl VectorTask for OuterBlock<'_> {
    type Output = ();

    // SAFETY of the blocks below: `Cut::run` made the ranges from the sum's sizes, the kernel's call has checked that the slices
    // have these sizes, and `Area::floats` gives at least the length that it is asked for.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let OuterBlock { sum, rows, cols, scratch } = self;
        let panel_cols = pack::panel_cols::<S>();
        let partial = scratch.partial.floats(rows.len() * cols.len());
        let panel = scratch.right.floats(OUTER_DEPTH * panel_cols);
        let copy = scratch.left.floats(OUTER_DEPTH * rows.len());
        for start in (0..sum.depth.max(1)).step_by(OUTER_DEPTH) {
            let depth = start..(start + OUTER_DEPTH).min(sum.depth);
            // SAFETY: `rows` and `depth` are inside `left`; `copy` has room for them.
            let left = unsafe { left_columns::<S>(sum, rows.clone(), depth.clone(), copy) };
            for col in (0..cols.len()).step_by(panel_cols) {
                let width = (cols.len() - col).min(panel_cols);
                let from = cols.start + col..cols.start + col + width;
                // SAFETY: `depth` and `from` are inside `right`; `panel` has room for them.
                let right = unsafe { right_panel::<S>(sum, depth.clone(), from, panel) };
                let mut row = 0;
                while row < rows.len() {
                    let height = tile_rows::<S>(rows.len() - row);
                    // SAFETY: the tile's rows and columns are inside the task's, and `partial` has room for all of these.
                    unsafe {
                        let partial = partial.add(row * cols.len() + col);
                        let store = Store {
                            output: partial,
                            output_stride: cols.len(),
                            partial,
                            partial_stride: cols.len(),
                            cols: width,
                            first: depth.start == 0,
                            last: false,
                            alpha: sum.alpha,
                            add: false,
                        };
                        let left = LeftTile::Columns { at: left.at.add(row), stride: left.stride };
                        microkernel::run::<S>(height, left, right, depth.len(), store);
                    }
                    row += height;
                }
            }
        }
        // SAFETY: the task owns `rows` and `cols` of the output; the partial sums were all written.
        unsafe { put(sum, rows, cols, partial) };
    }
}

/// The left operand of the tiles: the rows are contiguous, and one depth begins `stride` elements after the one before.
#[derive(Clone, Copy)]
struct LeftColumns {
    at: *const f32,
    stride: usize,
}

/// Returns the tiles' rows in place, or a copy that is rounded to bf16 if the precision asks for it.
#[inline(always)]
unsafe fn left_columns<S: Simd>(
    sum: &OuterSum<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    copy: *mut f32,
) -> LeftColumns {
    // SAFETY: the ranges are within `left`; the copy has room for them.
    unsafe {
        match sum.precision {
            Precision::F32 => {
                LeftColumns { at: sum.left.as_ptr().add(depth.start * sum.rows + rows.start), stride: sum.rows }
            }
            Precision::Bf16 => {
                let stride = rows.len();
                pack::copied_rows::<S>(sum.left, sum.rows, depth, rows, sum.precision, copy, stride);
                LeftColumns { at: copy, stride }
            }
        }
    }
}

/// Returns the panel's columns in place, or packs them if they must be rounded or are not whole vectors.
#[inline(always)]
unsafe fn right_panel<S: Simd>(
    sum: &OuterSum<'_>,
    depth: Range<usize>,
    cols: Range<usize>,
    panel: *mut f32,
) -> RightPanel {
    // SAFETY: the ranges are within `right`; the panel has room for them.
    unsafe {
        if sum.precision == Precision::F32 && cols.len().is_multiple_of(S::LANES) {
            RightPanel { at: sum.right.as_ptr().add(depth.start * sum.cols + cols.start), stride: sum.cols }
        } else {
            let stride = pack::panel_width::<S>(cols.len());
            let right = Right { values: Values::F32(sum.right), order: Order::Rows };
            pack::right_panels::<S>(right, [sum.depth, sum.cols], depth, cols, sum.precision, panel);
            RightPanel { at: panel, stride }
        }
    }
}

/// Scales the finished sums of one task and stores them in the output or adds them to it, transposed if the output is turned.
#[inline(always)]
unsafe fn put(sum: &OuterSum<'_>, rows: Range<usize>, cols: Range<usize>, partial: *const f32) {
    for row in rows.clone() {
        for col in cols.clone() {
            // SAFETY: the ranges are within the output, which no other task writes here.
            unsafe {
                let product = sum.alpha * *partial.add((row - rows.start) * cols.len() + (col - cols.start));
                let at = if sum.turned { col * sum.rows + row } else { row * sum.cols + col };
                let output = sum.output.add(at);
                *output = match sum.accumulate {
                    Accumulate::Set => product,
                    Accumulate::Add => *output + product,
                };
            }
        }
    }
}
