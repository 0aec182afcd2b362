//! Finds the column of the largest value of each row, the first of equals: greedy decoding without moving logits to the host.
//!
//! NaN is never the largest value, and columns in `left_out` do not count. The result for a row without other values is [`NONE`].

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, IndexSlice, Result, Slice, SliceMut};

/// The result for a row in which no value counts: all are NaN or left out.
pub const NONE: u32 = u32::MAX;

/// A search in each row; see the module.
pub struct Argmax<'a> {
    /// Rows to search.
    pub rows: usize,
    /// Columns of a row: at least 1, at most 2^32 - 1.
    pub cols: usize,
    /// `[rows, cols]`
    pub x: Slice<'a, f32>,
    /// Columns that do not count, in any order. Columns outside the rows are ignored.
    pub left_out: IndexSlice<'a>,
    /// `[rows]`: the columns that are found
    pub y: SliceMut<'a, u32>,
}

impl Argmax<'_> {
    /// Writes `y`.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] if `x` or `y` does not have its length; [`crate::KernelError::Size`] if `cols` is not from 1
    /// to 2^32 - 1.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "argmax";
        check_size(KERNEL, "cols", self.cols, self.cols > 0 && self.cols <= NONE as usize, "from 1 to 2^32 - 1")?;
        check_len(KERNEL, "x", self.x.len(), self.rows * self.cols)?;
        check_len(KERNEL, "y", self.y.len(), self.rows)?;
        device.run(KERNEL, self, cpu::argmax, cuda::argmax)
    }
}

#[cfg(test)]
mod tests;
