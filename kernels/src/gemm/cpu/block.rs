//! One task: some rows by some columns of the product, over the whole depth.

use super::microkernel::{self, LeftTile, Store, TILE_VECTORS, tile_rows};
use super::scratch::{Area, Scratch};
use super::{DEPTH_BLOCK, Left, Product, pack};
use crate::Precision;
use crate::cpu::simd::{Simd, VectorTask};
use crate::gemm::Accumulate;
use std::ops::Range;

pub(super) struct Block<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) rows: Range<usize>,
    /// Starts at a panel's first column.
    pub(super) cols: Range<usize>,
    pub(super) scratch: &'a mut Scratch,
}

/// The rows' part of the left operand for one depth block.
#[derive(Clone, Copy)]
enum LeftBlock {
    Rows { at: *const f32, stride: usize },
    Tiles { at: *const f32 },
}

impl VectorTask for Block<'_> {
    type Output = ();

    // SAFETY of the blocks below: `Product::run` made the ranges from the product's sizes, the contract checked that the slices
    // have these sizes, and `Area::floats` gives as much as it is asked for.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Block { product, rows, cols, scratch } = self;
        // SAFETY: see above.
        let output = unsafe { product.output.0.add(rows.start * product.cols + cols.start) };
        // The sums so far lie in the output itself, unless it holds what they are added to.
        let (partial, partial_stride) = match product.accumulate {
            Accumulate::Add if product.depth > DEPTH_BLOCK => {
                (scratch.partial.floats(rows.len() * cols.len()), cols.len())
            }
            _ => (output, product.cols),
        };
        let panel_cols = TILE_VECTORS * S::LANES;
        for depth in product.depth_blocks() {
            // SAFETY: see above.
            let left = unsafe { left_block::<S>(product, rows.clone(), depth.clone(), &mut scratch.left) };
            let panel = scratch.right.floats(depth.len() * panel_cols);
            for first_col in (0..cols.len()).step_by(panel_cols) {
                let width = (cols.len() - first_col).min(panel_cols);
                let store = Store {
                    output: output.wrapping_add(first_col),
                    output_stride: product.cols,
                    partial: partial.wrapping_add(first_col),
                    partial_stride,
                    cols: width,
                    first: depth.start == 0,
                    last: depth.end == product.depth,
                    alpha: product.alpha,
                    add: product.accumulate == Accumulate::Add,
                };
                let (depth, from) = (depth.clone(), cols.start + first_col);
                // SAFETY: see above.
                unsafe {
                    if width > S::LANES {
                        pack::right_panel::<S, TILE_VECTORS>(product, depth.clone(), from..from + width, panel);
                        tiles::<S, TILE_VECTORS>(rows.len(), left, panel, depth.len(), store);
                    } else {
                        pack::right_panel::<S, 1>(product, depth.clone(), from..from + width, panel);
                        tiles::<S, 1>(rows.len(), left, panel, depth.len(), store);
                    }
                }
            }
        }
    }
}

/// Runs all rows against one panel.
#[inline(always)]
unsafe fn tiles<S: Simd, const NV: usize>(rows: usize, left: LeftBlock, panel: *const f32, depth: usize, store: Store) {
    let mut row = 0;
    while row < rows {
        let height = tile_rows::<S>(rows - row);
        // SAFETY: the tile's rows are within the block's.
        unsafe {
            let left = match left {
                LeftBlock::Rows { at, stride } => LeftTile::Rows { at: at.add(row * stride), stride },
                LeftBlock::Tiles { at } => LeftTile::Columns { at: at.add(row * depth) },
            };
            let output = store.output.add(row * store.output_stride);
            let partial = store.partial.add(row * store.partial_stride);
            microkernel::run::<S, NV>(height, left, panel, depth, Store { output, partial, ..store });
        }
        row += height;
    }
}

/// The left operand's part of a depth block: in place, copied, or packed into tiles.
#[inline(always)]
unsafe fn left_block<S: Simd>(
    product: &Product<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    area: &mut Area,
) -> LeftBlock {
    let len = rows.len() * depth.len();
    // SAFETY: both ranges are within the left operand; the area is made large enough.
    unsafe {
        match product.left {
            Left::Columns(from) => {
                let at = area.floats(len);
                pack::left_columns::<S>(from, product.rows, rows, depth, product.precision, at);
                LeftBlock::Tiles { at }
            }
            Left::Rows(from) if product.precision == Precision::Bf16 || rows_collide(product.depth, rows.len()) => {
                let (at, stride) = (area.floats(len), depth.len());
                pack::left_rows::<S>(from, product.depth, rows, depth, product.precision, at);
                LeftBlock::Rows { at, stride }
            }
            Left::Rows(from) => {
                let at = from.as_ptr().add(rows.start * product.depth + depth.start);
                LeftBlock::Rows { at, stride: product.depth }
            }
        }
    }
}

/// Whether the rows of a tile fall into so few sets of the first-level cache (64 sets of 64 bytes) that they push each other
/// and the panel out: then they are copied closer together.
fn rows_collide(stride: usize, rows: usize) -> bool {
    rows >= 4 && (stride * size_of::<f32>()).is_multiple_of(1024)
}
