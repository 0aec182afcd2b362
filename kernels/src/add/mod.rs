//! Adds one tensor to another: for the residual stream, and for values that have several gradients.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

pub(crate) use cpu::Sum;

use crate::error::check_len;
use crate::{Device, FloatSlice, FloatSliceMut, Result};

/// `y += x`. Each of the two may be f32 or bf16.
pub struct Add<'a> {
    /// Elements of `x` and of `y`.
    pub len: usize,
    /// `[len]`
    pub x: FloatSlice<'a>,
    /// `[len]`
    pub y: FloatSliceMut<'a>,
}

impl Add<'_> {
    /// Adds `x` to `y`.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] if `x` or `y` does not have `len` elements.
    pub fn run(self, device: &Device) -> Result<()> {
        check_len("add", "x", self.x.len(), self.len)?;
        check_len("add", "y", self.y.len(), self.len)?;
        device.run("add", self, cpu::add, cuda::add)
    }
}

#[cfg(test)]
mod tests;
