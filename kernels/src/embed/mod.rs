//! Rows of the embedding table: `y[r] = scale * table[ids[r]]`.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut, WeightSlice};

/// See the module.
pub struct Forward<'a> {
    pub rows: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// `[rows]`
    pub ids: Slice<'a, u32>,
    /// `[vocab_size, hidden_size]`
    pub table: WeightSlice<'a>,
    /// 1, or `sqrt(hidden_size)` (Gemma)
    pub scale: f32,
    /// `[rows, hidden_size]`
    pub y: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`]; [`crate::KernelError::TokenId`] for an id at or above `vocab_size`.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
