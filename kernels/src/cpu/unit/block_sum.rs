//! 32 x 32 sums of products of packed panels, on whichever unit multiplies bf16.

use half::bf16;
use std::arch::x86_64::__m512i;

/// Lines of a tile.
pub(crate) const LINES: usize = 16;
/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 32;
/// Depth that one step multiplies.
pub(crate) const STEP_DEPTH: usize = 32;
/// Pairs in the depth of one step.
pub(crate) const STEP_PAIRS: usize = STEP_DEPTH / 2;
/// Bytes of one step of a packed operand, for each term: two tiles.
pub(crate) const STEP_BYTES: usize = 2048;

/// Where the operands of a step begin, in bytes from the start of the panels.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) left: usize,
    pub(crate) right: usize,
}

impl Step {
    /// Returns `steps` steps that follow each other in both panels, and then the first one again.
    pub(crate) fn consecutive(steps: usize) -> Vec<Step> {
        (0..=steps).map(|step| Step { left: step % steps * STEP_BYTES, right: step % steps * STEP_BYTES }).collect()
    }
}

/// A block of sums in memory.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) at: *mut f32,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Whether the sums start from zero instead of what is in memory.
    pub(crate) from_zero: bool,
}

/// `to[32, 32] = from[32, 32] + Σ_step left[step] · right[step]`, in the order of the steps.
#[derive(Clone, Copy)]
pub(crate) struct BlockSum {
    /// `count` steps and one more, because the code also loads the tiles of the step after the last.
    pub(crate) steps: *const Step,
    /// At least 1.
    pub(crate) count: usize,
    pub(crate) left: *const u8,
    pub(crate) right: *const u8,
    /// The sums to start from, and the bytes from row to row. Null means zeros. With 0 bytes, all rows start from the same row.
    pub(crate) from: (*const f32, usize),
    pub(crate) to: (*mut f32, usize),
    /// Rows of `to` that are used. Rows beyond may hold anything.
    pub(crate) rows: usize,
    /// Columns of `to` that are used.
    pub(crate) cols: usize,
    /// For each step, how many pairs of its depth to multiply. The other pairs are zero. Null means all pairs.
    pub(crate) pairs: *const u8,
    /// What to prefetch into the second-level cache, 128 bytes a step. The address need not be valid.
    pub(crate) ahead: *const u8,
}

/// A finished block of sums that is rounded to bf16 while another block is computed, and where the result goes.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    /// 32 rows of 32 floats, one after the other, at an address that is a multiple of [`SUMS_BYTES`].
    pub(crate) sums: *const f32,
    pub(crate) to: *mut bf16,
    /// Bytes from row to row of `to`.
    pub(crate) stride: usize,
}

/// Bytes of a block of sums.
pub(crate) const SUMS_BYTES: usize = 4 * BLOCK * BLOCK;

/// The first of several lines, and the bytes from one to the next.
pub(crate) type Lines = (*const u8, usize);

/// Sums of 8 or 16 rows by 16 columns, for products of few rows. The rows are transposed: each pair of the depth has a vector
/// with a lane for each row. The columns' pairs are read in place. The vector code repeats a pair in all lanes as it reads it.
/// AMX loads a tile of columns in place as the left operand; its right operand is the rows.
pub(crate) trait ColumnSums {
    /// Bytes of a vector of rows.
    const VECTOR_BYTES: usize;

    /// Starts sums from these lines, one for each column.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16, and the unit, configured on this thread.
    unsafe fn of(lines: [__m512i; LINES]) -> Self;
    /// Returns the sums as lines, one for each column.
    ///
    /// # Safety
    /// As [`ColumnSums::of`].
    unsafe fn lines(&self) -> [__m512i; LINES];
    /// Adds `steps` steps of the depth; in the last step, the pairs after the first `pairs` are zero. The lines of `right` hold
    /// the columns' numbers. Prefetches 64 bytes a step of each of 16 lines `ahead`, in the order in which they will be needed.
    /// The lines `ahead` need not be valid.
    ///
    /// # Safety
    /// As [`ColumnSums::of`]; each column has 32 bf16 a step; `left` points at the vectors of the steps, aligned to a vector;
    /// `pairs` is 1 to [`STEP_PAIRS`].
    unsafe fn add(&mut self, right: Lines, left: *const u8, steps: usize, pairs: usize, ahead: Lines);
}
