//! Sums: the residual stream, biases, and values that have several gradients.

pub mod case;
mod cpu;
pub mod reference;

pub(crate) use cpu::Sum;

use crate::error::{check_len, check_size};
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
        check_len("add", "x", self.x.len(), self.len)?;
        check_len("add", "y", self.y.len(), self.len)?;
        match device {
            Device::Cpu(cpu) => cpu::add(cpu, self),
        }
        Ok(())
    }
}

impl AddBias<'_> {
    /// # Errors
    /// As [`Add::run`], and [`crate::KernelError::Size`] for no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        check_len("add.bias", "bias", self.bias.len(), self.cols)?;
        check_len("add.bias", "y", self.y.len(), self.rows.saturating_mul(self.cols))?;
        check_size("add.bias", "cols", self.cols, self.cols > 0, "at least 1")?;
        match device {
            Device::Cpu(cpu) => cpu::add_bias(cpu, self),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
