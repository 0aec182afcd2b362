//! Sums: the residual stream, and values that have several gradients.

pub(crate) mod case;
mod cpu;
mod reference;

pub(crate) use cpu::Sum;

use crate::error::check_len;
use crate::{Device, FloatSlice, FloatSliceMut, Result};

/// `y += x`, both `[len]`, of any format
pub struct Add<'a> {
    pub len: usize,
    pub x: FloatSlice<'a>,
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
