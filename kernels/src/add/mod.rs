//! Sums: the residual stream, and values that have several gradients.

pub(crate) mod case;
mod cpu;
mod reference;

pub(crate) use cpu::Sum;

use crate::error::check_len;
use crate::{Device, FloatSlice, FloatSliceMut, Result};

/// `y += x`, of any two formats
pub struct Add<'a> {
    /// Elements of `x` and of `y`.
    pub len: usize,
    /// `[len]`
    pub x: FloatSlice<'a>,
    /// `[len]`
    pub y: FloatSliceMut<'a>,
}

impl Add<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice has another length.
    pub fn run(self, device: &Device) -> Result<()> {
        check_len("add", "x", self.x.len(), self.len)?;
        check_len("add", "y", self.y.len(), self.len)?;
        device.run("add", |cpu| cpu::add(cpu, self))
    }
}

#[cfg(test)]
mod tests;
