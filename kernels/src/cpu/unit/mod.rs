//! The units that multiply bf16: blocks of sums of their products, the layout of their operands, and the vector code beside them.
//!
//! | word | means |
//! |---|---|
//! | term | a bf16 number; an f32 is a sum of up to three of them |
//! | step | a stretch of the depth of a product, 32 long |
//! | pair | two numbers that follow each other in the depth, multiplied by one instruction |
//! | line | 64 bytes: 32 terms, or 16 pairs |
//! | tile | 16 lines; a step of a panel is two of them for each term |
//! | panel | 32 rows of a left operand, or 32 columns of a right one, step after step |
//! | block of sums | 32 x 32 sums in f32, of a left panel and a right one |
//!
//! Only x86-64 has a unit. Elsewhere `absent.rs` takes the place of this folder: its [`Unit`] has no value, so the compiler drops
//! the code that would use one.

pub(crate) mod amx;
pub(crate) mod block_sum;
pub(crate) mod dot;
pub(crate) mod pack;
pub(crate) mod vector;

use amx::block_sum as tiles;
use block_sum::{BLOCK, BlockSum, Finished, Step, Sums};

/// A unit that multiplies bf16 and sums in f32. Both units read the same panels, and add the steps of the depth to a sum one
/// after the other. Within a step, each unit adds the products in its own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The tiles of AMX.
    Amx,
    /// Dot products of pairs in the vectors of AVX-512.
    Dot,
}

impl Unit {
    /// Prepares this thread for the unit.
    ///
    /// # Safety
    /// The processor has the unit.
    #[inline]
    pub(crate) unsafe fn configure(self) {
        match self {
            // SAFETY: the processor has the unit, as the caller promises.
            Unit::Amx => unsafe { amx::configure() },
            Unit::Dot => {}
        }
    }

    /// How many terms an f32 is split into. `None` if multiply-adds compute the products of f32.
    pub(crate) fn terms_of_f32(self) -> Option<usize> {
        match self {
            Unit::Amx => Some(3),
            Unit::Dot => None,
        }
    }

    /// Whether this crate's tests emulate the unit.
    #[cfg(test)]
    pub(crate) fn is_emulated(self) -> bool {
        self == Unit::Amx && !amx::available()
    }

    /// Runs the unit at its limit for about a millisecond, on this thread. Returns the number of floating-point operations.
    pub(crate) fn burst(self) -> f64 {
        match self {
            // SAFETY: `Isa::available` found the unit or, in tests, installed its emulator; nothing else makes this value.
            Unit::Amx => unsafe { amx::burst() },
            // SAFETY: `Isa::available` found AVX-512 with bf16; nothing else makes this value.
            Unit::Dot => unsafe { dot::burst(100_000) },
        }
    }

    /// Largest depth of a block, in steps. A right panel of this depth stays in the first-level cache while the left ones pass.
    pub(crate) fn steps_per_block(self) -> usize {
        match self {
            // 40 KiB, in a cache of 48 KiB
            Unit::Amx => 20,
            Unit::Dot => dot::STEPS_PER_BLOCK,
        }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// The processor has the unit, configured on this thread; `steps` holds one more than `count`; the 2048 bytes of every step
    /// are inside the panels, at multiples of 64; `from` (unless null) and `to` point at 32 rows of 32 floats; `pairs` is null or
    /// points at a number up to 16 for each step. If the block has at most 16 columns, the other columns of `to` may stay as they
    /// were.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) unsafe fn run(self, block: BlockSum) {
        // SAFETY: each unit's `run` requires what this function requires, and `run_narrow` gets a block of at most 16 columns.
        unsafe {
            match self {
                Unit::Amx if block.cols <= 16 => tiles::run_narrow(block),
                Unit::Amx => tiles::run(block),
                Unit::Dot => dot::run(block),
            }
        }
    }

    /// Computes a block of 32 rows and columns in place. The last of `steps` is loaded but not multiplied; see [`BlockSum`].
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
        // SAFETY: the caller promises the unit, the panels and the sums, and `count` is one less than the length of `steps`.
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

    /// As [`Unit::run`]. Also rounds a block that was finished before, if there are enough products to hide the rounding. Returns
    /// whether it rounded the block.
    ///
    /// # Safety
    /// As [`Unit::run`]; `finished.sums` is another block than `to`, and `finished.to` has room for 32 rows of 32 bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) unsafe fn run_and_round(self, block: BlockSum, finished: Finished) -> bool {
        // SAFETY: the caller promises what `run` and `run_and_round` require, and `run_and_round` gets at least `ROUNDING_STEPS`
        // steps.
        unsafe {
            match self {
                Unit::Amx if block.count >= tiles::ROUNDING_STEPS => {
                    tiles::run_and_round(block, finished);
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
