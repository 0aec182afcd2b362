//! Rows of the embedding table: `y[r] = scale * table[ids[r]]`.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, IndexSlice, KernelError, Result, SliceMut, WeightSlice};

/// `y[r] = scale * table[ids[r]]`
pub struct Forward<'a> {
    /// Number of tokens to look up.
    pub rows: usize,
    /// Columns of `table` and `y`, at least 1.
    pub hidden_size: usize,
    /// Rows of `table`. Every id must be below this.
    pub vocab_size: usize,
    /// `[rows]`
    pub ids: IndexSlice<'a>,
    /// `[vocab_size, hidden_size]`
    pub table: WeightSlice<'a>,
    /// 1, or `sqrt(hidden_size)` (Gemma)
    pub scale: f32,
    /// `[rows, hidden_size]`
    pub y: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::TokenId`] for an id at
    /// or above `vocab_size`, [`crate::KernelError::Size`] if there are no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "embed";
        check_len(KERNEL, "ids", self.ids.len(), self.rows)?;
        check_len(KERNEL, "table", self.table.len(), self.vocab_size.saturating_mul(self.hidden_size))?;
        check_len(KERNEL, "y", self.y.len(), self.rows.saturating_mul(self.hidden_size))?;
        check_size(KERNEL, "hidden_size", self.hidden_size, self.hidden_size > 0, "at least 1")?;
        let vocab_size = self.vocab_size;
        if let Some((row, id)) = self.ids.first_outside(0..vocab_size)? {
            return Err(KernelError::TokenId { kernel: KERNEL, row, id, vocab_size });
        }
        device.run(KERNEL, self, cpu::forward, cuda::forward)
    }
}

#[cfg(test)]
mod tests;
