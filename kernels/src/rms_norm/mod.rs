//! `y[r, c] = x[r, c] * rstd[r] * (offset + weight[c])`, `rstd[r] = 1 / sqrt(mean_c(x[r, c]²) + eps)`.
//!
//! `offset` is 0 for most families and 1 where weights are stored as the difference from one (Gemma). For a norm per head, a
//! row is one head of one token: `rows * heads` rows of `head_dim` columns.
//! Source: arXiv 1910.07467, eq. 4; the backward is derived in docs/derivations/rms_norm.md.

pub mod case;
mod cpu;
pub mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, Result, Slice, SliceMut};

/// See the module.
pub struct Forward<'a> {
    pub rows: usize,
    pub cols: usize,
    pub eps: f32,
    pub offset: f32,
    /// `[rows, cols]`
    pub x: Slice<'a, f32>,
    /// `[cols]`
    pub weight: Slice<'a, f32>,
    /// `[rows, cols]`
    pub y: SliceMut<'a, f32>,
    /// `[rows]`, kept for the backward pass
    pub rstd: SliceMut<'a, f32>,
}

/// `dx += rstd * (w∘dy - x * rstd² * mean(w∘dy∘x))`, `w = offset + weight`
pub struct Backward<'a> {
    pub rows: usize,
    pub cols: usize,
    pub offset: f32,
    /// `[rows, cols]`
    pub x: Slice<'a, f32>,
    /// `[cols]`
    pub weight: Slice<'a, f32>,
    /// `[rows]`
    pub rstd: Slice<'a, f32>,
    /// `[rows, cols]`
    pub dy: Slice<'a, f32>,
    /// `[rows, cols]`, added to
    pub dx: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Size`] for no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rms_norm.forward";
        let n = self.rows.saturating_mul(self.cols);
        check_len(KERNEL, "x", self.x.len(), n)?;
        check_len(KERNEL, "weight", self.weight.len(), self.cols)?;
        check_len(KERNEL, "y", self.y.len(), n)?;
        check_len(KERNEL, "rstd", self.rstd.len(), self.rows)?;
        check_size(KERNEL, "cols", self.cols, self.cols > 0, "at least 1")?;
        match device {
            Device::Cpu(cpu) => cpu::forward(cpu, self),
        }
        Ok(())
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rms_norm.backward";
        let n = self.rows.saturating_mul(self.cols);
        check_len(KERNEL, "x", self.x.len(), n)?;
        check_len(KERNEL, "weight", self.weight.len(), self.cols)?;
        check_len(KERNEL, "rstd", self.rstd.len(), self.rows)?;
        check_len(KERNEL, "dy", self.dy.len(), n)?;
        check_len(KERNEL, "dx", self.dx.len(), n)?;
        check_size(KERNEL, "cols", self.cols, self.cols > 0, "at least 1")?;
        match device {
            Device::Cpu(cpu) => cpu::backward(cpu, self),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
