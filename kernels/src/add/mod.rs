//! Sums: the residual stream, biases, and values that have several gradients.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut};

/// `y += x`, both `[len]`
pub struct Add<'a> {
    pub len: usize,
    pub x: Slice<'a, f32>,
    pub y: SliceMut<'a, f32>,
}

/// `y[r, c] += bias[c]`
pub struct AddBias<'a> {
    pub rows: usize,
    pub cols: usize,
    /// `[cols]`
    pub bias: Slice<'a, f32>,
    /// `[rows, cols]`
    pub y: SliceMut<'a, f32>,
}

impl Add<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice has another length.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl AddBias<'_> {
    /// # Errors
    /// As [`Add::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
