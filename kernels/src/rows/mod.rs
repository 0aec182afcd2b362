//! Kernels that move rows: gather them by index, scatter them into a cache, add them back. The only arithmetic is the sums of
//! [`ScatterAdd`], which are in the order of the index.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_dtype, check_len, check_size};
use crate::{Columns, Device, FloatSliceMut, IndexSlice, KernelError, Result, Slice, SliceMut};

/// `y[i] = x[index[i]]`
pub struct Gather<'a> {
    /// Columns of a row, at least 1.
    pub cols: usize,
    /// `[n]`; an index may occur more than once
    pub index: IndexSlice<'a>,
    /// `[x_rows, cols]`
    pub x: Slice<'a, f32>,
    /// `[n, cols]`
    pub y: SliceMut<'a, f32>,
}

/// `y[index[i]] = x[i]`
pub struct Scatter<'a> {
    /// Columns of a row, at least 1.
    pub cols: usize,
    /// `[n]`, all different
    pub index: IndexSlice<'a>,
    /// `[n, cols]`
    pub x: Columns<'a>,
    /// `[y_rows, cols]`, in the format of `x`
    pub y: FloatSliceMut<'a>,
}

/// `y[index[i]] += x[i]`, for i in order; an index may occur more than once
pub struct ScatterAdd<'a> {
    /// Columns of a row, at least 1.
    pub cols: usize,
    /// `[n]`
    pub index: IndexSlice<'a>,
    /// `[n, cols]`
    pub x: Slice<'a, f32>,
    /// `[y_rows, cols]`
    pub y: SliceMut<'a, f32>,
}

impl Gather<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::RowIndex`] for an index
    /// out of range; [`crate::KernelError::Size`] if there are no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        check_indexed("rows.gather", self.cols, self.index, ("y", self.y.len()), ("x", self.x.len()))?;
        device.run("rows.gather", self, cpu::gather, cuda::gather)
    }
}

impl Scatter<'_> {
    /// # Errors
    /// The errors of [`Gather::run`]; [`crate::KernelError::Size`] also if the columns of `x` end beyond its rows;
    /// [`crate::KernelError::Format`] if `y` has another format than `x`.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rows.scatter";
        self.x.check(KERNEL, "x", self.index.len(), self.cols)?;
        check_dtype(KERNEL, "y", self.y.dtype(), self.x.values.dtype())?;
        let dense = self.index.len().saturating_mul(self.cols);
        check_indexed(KERNEL, self.cols, self.index, ("x", dense), ("y", self.y.len()))?;
        device.run(KERNEL, self, cpu::scatter, cuda::scatter)
    }
}

impl ScatterAdd<'_> {
    /// # Errors
    /// The errors of [`Gather::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        check_indexed("rows.scatter_add", self.cols, self.index, ("x", self.x.len()), ("y", self.y.len()))?;
        device.run("rows.scatter_add", self, cpu::scatter_add, cuda::scatter_add)
    }
}

/// Checks that `dense` holds one row per index, that `indexed` holds whole rows, and that every index is one of these rows.
fn check_indexed(
    kernel: &'static str,
    cols: usize,
    index: IndexSlice<'_>,
    dense: (&'static str, usize),
    indexed: (&'static str, usize),
) -> Result<()> {
    check_size(kernel, "cols", cols, cols > 0, "at least 1")?;
    check_len(kernel, dense.0, dense.1, index.len().saturating_mul(cols))?;
    let rows = indexed.1 / cols;
    check_len(kernel, indexed.0, indexed.1, rows * cols)?;
    match index.first_outside(0..rows)? {
        Some((place, index)) => Err(KernelError::RowIndex { kernel, place, index, rows }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
