//! One task of [`crate::gemm::Forward`] and [`crate::gemm::Dx`]: some rows by some columns of the product, over the whole depth.

use super::microkernel::{self, LeftTile, RightPanel, Store, tile_rows};
use super::{DEPTH_BLOCK, Product, pack};
use crate::Precision;
use crate::cpu::vectors::{Simd, VectorTask};
use crate::gemm::Accumulate;
use crate::gemm::cpu::scratch::{Area, Scratch};
use std::ops::Range;

/// Largest number of floats of a packed right operand that stays in the second-level cache while the rows pass: 160 KiB.
pub(super) const RESIDENT: usize = 40 << 10;

pub(super) struct Block<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) rows: Range<usize>,
    /// Starts at a panel's first column.
    pub(super) cols: Range<usize>,
    pub(super) scratch: &'a mut Scratch,
}

impl VectorTask for Block<'_> {
    type Output = ();

    // SAFETY of the blocks below: `Product::run` made the ranges from the product's sizes, the kernel's call has checked that the
    // slices have these sizes, and `Area::floats` gives at least the length that it is asked for.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let is_resident = self.product.is_resident::<S>(self.cols.len());
        // SAFETY: the ranges are inside the operands, and each area has the length that it was asked for.
        unsafe { if is_resident { self.rows_outside::<S>() } else { self.panels_outside::<S>() } }
    }
}

/// Returns the floats that a block of `rows` rows and `cols` columns needs in each area of a thread's scratch.
pub(super) struct Areas<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl VectorTask for Areas<'_> {
    type Output = [usize; 3];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [usize; 3] {
        let Areas { product, rows, cols } = self;
        let depth = product.depth_blocks().map(|depth| depth.len()).max().unwrap_or(0);
        let left = |rows: usize| if product.copies_left(rows) { rows * pack::copied_stride(depth) } else { 0 };
        if product.is_resident::<S>(cols) {
            let tile = tile_rows::<S>(rows);
            return [left(tile), pack::packed_len::<S>(product.depth, cols), tile_rows::<S>(usize::MAX) * cols];
        }
        let partial = if product.sums_apart() { rows * cols } else { 0 };
        [left(rows), pack::packed_len::<S>(depth, pack::panel_cols::<S>()), partial]
    }
}

impl Product<'_> {
    /// Whether `cols` columns of the right operand are packed as a whole, and stay in the cache while all rows pass.
    #[inline(always)]
    fn is_resident<S: Simd>(&self, cols: usize) -> bool {
        pack::packed_len::<S>(self.depth, cols) <= RESIDENT
    }

    /// Whether the sums so far need separate memory, because the output holds the values that they are added to.
    #[inline(always)]
    fn sums_apart(&self) -> bool {
        self.accumulate == Accumulate::Add && self.depth > DEPTH_BLOCK
    }

    /// Whether rows of the left operand are copied, because values must be rounded or because the rows of a tile would fall
    /// into the same sets of the first-level cache.
    #[inline(always)]
    fn copies_left(&self, rows: usize) -> bool {
        let collide = rows > 4 && (self.depth * size_of::<f32>()).is_multiple_of(4096);
        self.precision == Precision::Bf16 || collide
    }
}

impl Block<'_> {
    /// For large operands: for each depth block and each panel, goes through all rows. The left operand's block stays in the
    /// second-level cache, the panel in the first-level cache.
    #[inline(always)]
    unsafe fn panels_outside<S: Simd>(self) {
        let Block { product, rows, cols, scratch } = self;
        // SAFETY: `rows` and `cols` are inside the output, as `Product::run` cuts it.
        let output = unsafe { product.output.at.add(rows.start * product.output.stride + cols.start) };
        let (partial, partial_stride) = match product.sums_apart() {
            true => (scratch.partial.floats(rows.len() * cols.len()), cols.len()),
            false => (output, product.output.stride),
        };
        let panel_cols = pack::panel_cols::<S>();
        for depth in product.depth_blocks() {
            // SAFETY: `rows` and `depth` are inside the left operand.
            let left = unsafe { left_rows::<S>(product, rows.clone(), depth.clone(), &mut scratch.left) };
            let panel = scratch.right.floats(pack::packed_len::<S>(depth.len(), panel_cols));
            for col in (0..cols.len()).step_by(panel_cols) {
                let width = (cols.len() - col).min(panel_cols);
                let from = cols.start + col;
                // SAFETY: `depth` and the panel's columns are inside the right operand; `panel` has room for them.
                unsafe { product.pack::<S>(depth.clone(), from..from + width, panel) };
                let right = RightPanel { at: panel, stride: pack::panel_width::<S>(width) };
                let mut row = 0;
                while row < rows.len() {
                    let height = tile_rows::<S>(rows.len() - row);
                    // SAFETY: the tile's rows and columns are inside the block's, and so inside `left`, the output and the partial
                    // sums.
                    unsafe {
                        let store = Store {
                            output: output.add(row * product.output.stride + col),
                            output_stride: product.output.stride,
                            partial: partial.add(row * partial_stride + col),
                            partial_stride,
                            cols: width,
                            first: depth.start == 0,
                            last: depth.end == product.depth,
                            alpha: product.alpha,
                            add: product.accumulate == Accumulate::Add,
                        };
                        microkernel::run::<S>(height, left.tile(row), right, depth.len(), store);
                    }
                    row += height;
                }
            }
        }
    }

    /// For small right operands, such as an adapter's. The operand is packed as a whole, and each tile of rows goes through all
    /// of it. So the left operand and the output each pass through the caches once, in the order of their rows.
    #[inline(always)]
    unsafe fn rows_outside<S: Simd>(self) {
        let Block { product, rows, cols, scratch } = self;
        let panels = scratch.right.floats(pack::packed_len::<S>(product.depth, cols.len()));
        for depth in product.depth_blocks() {
            // SAFETY: `depth` and `cols` are inside the right operand; the blocks before this one fill `depth.start` rows of
            // `panels`.
            unsafe {
                let to = panels.add(pack::packed_len::<S>(depth.start, cols.len()));
                product.pack::<S>(depth, cols.clone(), to);
            }
        }
        let partial = scratch.partial.floats(tile_rows::<S>(usize::MAX) * cols.len());
        let mut row = rows.start;
        while row < rows.end {
            let height = tile_rows::<S>(rows.end - row);
            for depth in product.depth_blocks() {
                // SAFETY: the tile's rows, `depth` and `cols` are inside the operands and the output; `partial` holds a full tile's
                // sums.
                unsafe {
                    let left = left_rows::<S>(product, row..row + height, depth.clone(), &mut scratch.left);
                    let panels = panels.add(pack::packed_len::<S>(depth.start, cols.len()));
                    for col in (0..cols.len()).step_by(pack::panel_cols::<S>()) {
                        let width = (cols.len() - col).min(pack::panel_cols::<S>());
                        let store = Store {
                            output: product.output.at.add(row * product.output.stride + cols.start + col),
                            output_stride: product.output.stride,
                            partial: partial.add(col),
                            partial_stride: cols.len(),
                            cols: width,
                            first: depth.start == 0,
                            last: depth.end == product.depth,
                            alpha: product.alpha,
                            add: product.accumulate == Accumulate::Add,
                        };
                        let at = panels.add(col * depth.len());
                        let right = RightPanel { at, stride: pack::panel_width::<S>(width) };
                        microkernel::run::<S>(height, left.tile(0), right, depth.len(), store);
                    }
                }
            }
            row += height;
        }
    }
}

/// Rows of the left operand, over one block of the depth.
#[derive(Clone, Copy)]
struct LeftRows {
    at: *const f32,
    stride: usize,
}

impl LeftRows {
    #[inline(always)]
    fn tile(self, row: usize) -> LeftTile {
        LeftTile::Rows { at: self.at.wrapping_add(row.wrapping_mul(self.stride)), stride: self.stride }
    }
}

/// Reads rows of the left operand in place or copies them: see [`Product::copies_left`].
#[inline(always)]
unsafe fn left_rows<S: Simd>(
    product: &Product<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    area: &mut Area,
) -> LeftRows {
    let left = product.left;
    // SAFETY: `rows` and `depth` are within the left operand; the area is made large enough.
    unsafe {
        if product.copies_left(rows.len()) {
            let stride = pack::copied_stride(depth.len());
            let at = area.floats(rows.len() * stride);
            let left = std::slice::from_raw_parts(left, product.rows * product.depth);
            pack::copied_rows::<S>(left, product.depth, rows, depth, product.precision, at, stride);
            LeftRows { at, stride }
        } else {
            let at = left.add(rows.start * product.depth + depth.start);
            LeftRows { at, stride: product.depth }
        }
    }
}
