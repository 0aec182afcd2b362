//! The column of the largest value of each row, the first one among equals: greedy decoding without moving logits to the host.
//!
//! NaN is never the largest, and columns that are left out do not count. A row with nothing else gives [`NONE`].

pub(crate) mod case;
mod cpu;
mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, IndexSlice, Result, Slice, SliceMut};

/// The result for a row in which no value counts: all are NaN or left out.
pub const NONE: u32 = u32::MAX;

/// See the module.
pub struct Argmax<'a> {
    /// Rows to search, with a result each.
    pub rows: usize,
    /// At least 1, at most 2^32 - 1.
    pub cols: usize,
    /// `[rows, cols]`
    pub x: Slice<'a, f32>,
    /// Columns that do not count, in any order. Columns outside the row change nothing.
    pub left_out: IndexSlice<'a>,
    /// `[rows]`
    pub y: SliceMut<'a, u32>,
}

impl Argmax<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`]; [`crate::KernelError::Size`] if `cols` is 0 or above 2^32 - 1.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "argmax";
        check_size(KERNEL, "cols", self.cols, self.cols > 0 && self.cols <= NONE as usize, "from 1 to 2^32 - 1")?;
        check_len(KERNEL, "x", self.x.len(), self.rows * self.cols)?;
        check_len(KERNEL, "y", self.y.len(), self.rows)?;
        device.run(KERNEL, |cpu| cpu::argmax(cpu, self))
    }
}

#[cfg(test)]
mod tests;
