//! 32 x 32 sums of products of packed panels, on whichever unit multiplies bf16.

mod amx;
pub(crate) mod dot;

pub(crate) use amx::TransposedTile;

use super::pack::LINES;
use half::bf16;
use std::arch::x86_64::__m512i;

/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 32;
/// Depth that one step multiplies.
pub(crate) const STEP_DEPTH: usize = 32;
/// Pairs of that depth.
pub(crate) const STEP_PAIRS: usize = STEP_DEPTH / 2;
/// Bytes of a packed operand's part of a step: two tiles.
pub(crate) const STEP_BYTES: usize = 2048;

/// What multiplies bf16 and sums in f32. Both read the same panels, and add to a sum step after step of 32 of the depth; in
/// which order they take the products of a step is their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The tiles of AMX.
    Amx,
    /// Dot products of pairs in the vectors of AVX-512.
    Dot,
}

/// Where the operands of a step lie, in bytes from the start of the panels.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) left: usize,
    pub(crate) right: usize,
}

/// A block of sums in memory.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) at: *mut f32,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Whether they start from zero rather than from what is there.
    pub(crate) from_zero: bool,
}

/// `to[32, 32] = from[32, 32] + Σ_step left[step] · right[step]`, in the order of the steps.
#[derive(Clone, Copy)]
pub(crate) struct BlockSum {
    /// `count` steps, and one more, so that the last can load "the next" too.
    pub(crate) steps: *const Step,
    /// At least 1.
    pub(crate) count: usize,
    pub(crate) left: *const u8,
    pub(crate) right: *const u8,
    /// Where the sums begin, and the bytes from row to row: null is zero, and rows 0 bytes apart are one row, repeated.
    pub(crate) from: (*const f32, usize),
    pub(crate) to: (*mut f32, usize),
    /// Rows that are wanted: those beyond may be computed or not.
    pub(crate) rows: usize,
    /// Columns that are wanted, likewise.
    pub(crate) cols: usize,
    /// For each step the pairs of its depth that are not zero throughout, or null: all of them.
    pub(crate) pairs: *const u8,
    /// What to ask for in the second-level cache on the way, 128 bytes a step; it need not be valid.
    pub(crate) ahead: *const u8,
}

/// A finished block of sums that is rounded to bf16 on the way, and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    /// 32 rows of 32 floats, one after the other, at a multiple of [`SUMS_BYTES`]
    pub(crate) sums: *const f32,
    pub(crate) to: *mut bf16,
    /// Bytes from row to row of `to`.
    pub(crate) stride: usize,
}

/// Bytes of a block of sums.
pub(crate) const SUMS_BYTES: usize = 4 * BLOCK * BLOCK;

/// Sums of 8 or 16 rows by 16 columns, for products of few rows. The rows are transposed and in the lanes of vectors, one for
/// each pair of the depth; the columns' pairs are read where they lie. On the vectors, a pair is repeated in all lanes as it is
/// read; on AMX, a tile of columns as it lies is the left operand of a product and the rows are the right one.
pub(crate) trait ColumnSums {
    /// Bytes of a vector of rows.
    const VECTOR_BYTES: usize;

    /// Sums that begin with these, a line for each column.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16, and the unit, configured on this thread.
    unsafe fn of(lines: [__m512i; LINES]) -> Self;
    /// A line for each column.
    ///
    /// # Safety
    /// As [`ColumnSums::of`].
    unsafe fn lines(&self) -> [__m512i; LINES];
    /// Adds `steps` steps of the depth, in the last of which the pairs behind the first `pairs` are zero. The numbers of the
    /// columns begin `stride` bytes apart at `right`. Asks for 64 bytes a step of each of 16 lines at `ahead`, as many bytes
    /// apart as it says, in the order in which they will be wanted. They need not be valid.
    ///
    /// # Safety
    /// As [`ColumnSums::of`]; each column has 32 bf16 a step; `left`, a multiple of a vector, points at the vectors of the
    /// steps; `pairs` is 1 to [`STEP_PAIRS`].
    unsafe fn add(
        &mut self,
        right: *const u8,
        stride: usize,
        left: *const u8,
        steps: usize,
        pairs: usize,
        ahead: (*const u8, usize),
    );
}

impl Unit {
    /// Readies this thread.
    ///
    /// # Safety
    /// The unit is there.
    #[inline]
    pub(crate) unsafe fn configure(self) {
        match self {
            // SAFETY: the caller's contract.
            Unit::Amx => unsafe { super::amx::configure() },
            Unit::Dot => {}
        }
    }

    /// Largest depth of a block, in steps: its right panel stays in the first-level cache while the left ones pass.
    pub(crate) fn steps_per_block(self) -> usize {
        match self {
            // 40 KiB of 48
            Unit::Amx => 20,
            Unit::Dot => dot::STEPS_PER_BLOCK,
        }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// The unit is there and configured on this thread; every step's 2048 bytes lie inside the panels, at multiples of 64;
    /// `from` (unless null) and `to` point at 32 rows of 32 floats; `pairs` is null or as many numbers up to 16 as there are
    /// steps. Of at most 16 columns, the others of `to` may be left as they were.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) unsafe fn run(self, block: BlockSum) {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Unit::Amx if block.cols <= 16 => amx::run_narrow(block),
                Unit::Amx => amx::run(block),
                Unit::Dot => dot::run(block),
            }
        }
    }

    /// Computes a block of all rows in place.
    ///
    /// # Safety
    /// As [`Unit::run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) unsafe fn run_in_place(
        self,
        steps: &[Step],
        left: *const u8,
        right: *const u8,
        sums: Sums,
        ahead: *const u8,
    ) {
        let from = if sums.from_zero { std::ptr::null() } else { sums.at.cast_const() };
        let (from, to) = ((from, sums.stride), (sums.at, sums.stride));
        let (steps, count) = (steps.as_ptr(), steps.len() - 1);
        // SAFETY: the caller's contract.
        unsafe {
            self.run(BlockSum {
                steps,
                count,
                left,
                right,
                from,
                to,
                rows: BLOCK,
                cols: BLOCK,
                pairs: std::ptr::null(),
                ahead,
            })
        }
    }

    /// As [`Unit::run`], and rounds a block that was finished before, where that costs nothing beside the products: says
    /// whether it has.
    ///
    /// # Safety
    /// As there; `finished.sums` is another block than `to`, and its output holds 32 rows of 32.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) unsafe fn run_and_round(self, block: BlockSum, finished: Finished) -> bool {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Unit::Amx if block.count >= amx::ROUNDING_STEPS => {
                    amx::run_and_round(block, finished);
                    true
                }
                _ => {
                    self.run(block);
                    false
                }
            }
        }
    }
}
