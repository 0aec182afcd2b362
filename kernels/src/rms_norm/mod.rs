//! `y[r, c] = x[r, c] * rstd[r] * (offset + weight[c])` with `rstd[r] = 1 / sqrt(mean_c(x[r, c]²) + eps)`.
//!
//! For a norm per head, a row is one head of one token: `tokens * heads` rows of `head_dim` columns.
//! Source: arXiv 1910.07467, eq. 4. docs/derivations/rms_norm.md derives the backward pass.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_dtype, check_len, check_size};
use crate::gemm::Accumulate;
use crate::{Device, FloatDtype, FloatSlice, FloatSliceMut, Result, Slice, SliceMut};

/// Where the rows of the norm are in the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Column of the tensor where the first row of the norm begins.
    pub first: usize,
    /// Rows of the norm in each row of the tensor, side by side.
    pub per_row: usize,
    /// Columns of the tensor.
    pub stride: usize,
}

impl Groups {
    /// Returns the groups for a tensor of `cols` columns if each of its rows is one row of the norm.
    pub fn rows(cols: usize) -> Groups {
        Groups { first: 0, per_row: 1, stride: cols }
    }

    /// Returns the number of elements of a tensor that has `rows` rows of the norm.
    fn len(self, rows: usize) -> usize {
        (rows / self.per_row.max(1)).saturating_mul(self.stride)
    }

    fn check(self, kernel: &'static str, rows: usize, cols: usize) -> Result<()> {
        check_size(kernel, "cols", cols, cols > 0, "at least 1")?;
        let whole = self.per_row > 0 && rows.is_multiple_of(self.per_row);
        check_size(kernel, "rows", rows, whole, "a multiple of `groups.per_row`, which is at least 1")?;
        let end = self.first.saturating_add(self.per_row.saturating_mul(cols));
        check_size(kernel, "groups", end, end <= self.stride, "columns inside their rows")
    }
}

/// `y = x * rstd * (offset + weight)`
pub struct Forward<'a> {
    /// Rows of the norm.
    pub rows: usize,
    /// Columns of a row of the norm, at least 1.
    pub cols: usize,
    /// Where the rows of the norm are in `x` and `y`.
    pub groups: Groups,
    /// Added to the mean square.
    pub eps: f32,
    /// 0 for most families, 1 if weights are stored as the difference from one (Gemma).
    pub offset: f32,
    /// `[rows / per_row, stride]`
    pub x: FloatSlice<'a>,
    /// `[cols]`
    pub weight: Slice<'a, f32>,
    /// Like `x`, but may be bf16 if `x` is f32. Columns outside the groups keep their values.
    pub y: FloatSliceMut<'a>,
    /// `[rows]`, kept for the backward pass
    pub rstd: SliceMut<'a, f32>,
}

/// `dx (+)= rstd * (w∘dy - x * rstd² * mean(w∘dy∘x))`, `w = offset + weight`
pub struct Backward<'a> {
    /// As in [`Forward`].
    pub rows: usize,
    /// As in [`Forward`].
    pub cols: usize,
    /// As in [`Forward`].
    pub groups: Groups,
    /// As in [`Forward`].
    pub offset: f32,
    /// As in [`Forward`].
    pub x: FloatSlice<'a>,
    /// `[cols]`
    pub weight: Slice<'a, f32>,
    /// `[rows]`
    pub rstd: Slice<'a, f32>,
    /// Like `y` of [`Forward`].
    pub dy: FloatSlice<'a>,
    /// Like `x`. Columns outside the groups keep their values.
    pub dx: FloatSliceMut<'a>,
    /// Whether the gradient is added to `dx` or replaces it.
    pub accumulate: Accumulate,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Size`] if there are no
    /// columns or if the groups do not fit the rows, [`crate::KernelError::Format`] if `x` is bf16 and `y` is f32.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rms_norm.forward";
        self.groups.check(KERNEL, self.rows, self.cols)?;
        let n = self.groups.len(self.rows);
        check_len(KERNEL, "x", self.x.len(), n)?;
        check_len(KERNEL, "weight", self.weight.len(), self.cols)?;
        check_len(KERNEL, "y", self.y.len(), n)?;
        check_len(KERNEL, "rstd", self.rstd.len(), self.rows)?;
        check_narrower(KERNEL, "y", self.x.dtype(), self.y.dtype())?;
        device.run(KERNEL, self, cpu::forward, cuda::forward)
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`], with `dy` in place of `y`; [`crate::KernelError::Format`] also if `dx` has another format than `x`.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rms_norm.backward";
        self.groups.check(KERNEL, self.rows, self.cols)?;
        let n = self.groups.len(self.rows);
        check_len(KERNEL, "x", self.x.len(), n)?;
        check_len(KERNEL, "weight", self.weight.len(), self.cols)?;
        check_len(KERNEL, "rstd", self.rstd.len(), self.rows)?;
        check_len(KERNEL, "dy", self.dy.len(), n)?;
        check_len(KERNEL, "dx", self.dx.len(), n)?;
        check_narrower(KERNEL, "dy", self.x.dtype(), self.dy.dtype())?;
        check_dtype(KERNEL, "dx", self.dx.dtype(), self.x.dtype())?;
        device.run(KERNEL, self, cpu::backward, cuda::backward)
    }
}

/// Refuses an f32 output of a bf16 input. An f32 input may have an output of either format.
fn check_narrower(kernel: &'static str, argument: &'static str, from: FloatDtype, to: FloatDtype) -> Result<()> {
    if from == FloatDtype::F32 { Ok(()) } else { check_dtype(kernel, argument, to, from) }
}

#[cfg(test)]
mod tests;
