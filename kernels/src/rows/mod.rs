//! Moving rows: gathered by index, scattered into a cache, added back, and columns split off. No arithmetic but the sums of
//! [`ScatterAdd`], which are in the order of the index.

pub mod case;
mod cpu;
pub mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, KernelError, Result, Slice, SliceMut};

/// `y[i] = x[index[i]]`
pub struct Gather<'a> {
    pub cols: usize,
    /// `[n]`; an index may occur more than once
    pub index: Slice<'a, u32>,
    /// `[x_rows, cols]`
    pub x: Slice<'a, f32>,
    /// `[n, cols]`
    pub y: SliceMut<'a, f32>,
}

/// `y[index[i]] = x[i]`
pub struct Scatter<'a> {
    pub cols: usize,
    /// `[n]`, all different
    pub index: Slice<'a, u32>,
    /// `[n, cols]`
    pub x: Slice<'a, f32>,
    /// `[y_rows, cols]`
    pub y: SliceMut<'a, f32>,
}

/// `y[index[i]] += x[i]`, for i in order; an index may occur more than once
pub struct ScatterAdd<'a> {
    pub cols: usize,
    /// `[n]`
    pub index: Slice<'a, u32>,
    /// `[n, cols]`
    pub x: Slice<'a, f32>,
    /// `[y_rows, cols]`
    pub y: SliceMut<'a, f32>,
}

/// `y[r] = x[r, first_col .. first_col + y_cols]`: one part of a fused projection
pub struct TakeColumns<'a> {
    pub rows: usize,
    pub x_cols: usize,
    pub first_col: usize,
    pub y_cols: usize,
    /// `[rows, x_cols]`
    pub x: Slice<'a, f32>,
    /// `[rows, y_cols]`
    pub y: SliceMut<'a, f32>,
}

/// `y[r, first_col .. first_col + x_cols] += x[r]`: the gradient of [`TakeColumns`]
pub struct AddColumns<'a> {
    pub rows: usize,
    pub y_cols: usize,
    pub first_col: usize,
    pub x_cols: usize,
    /// `[rows, x_cols]`
    pub x: Slice<'a, f32>,
    /// `[rows, y_cols]`
    pub y: SliceMut<'a, f32>,
}

impl Gather<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`]; [`crate::KernelError::RowIndex`] for an index out of range; [`crate::KernelError::Size`]
    /// for no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        check_indexed("rows.gather", self.cols, self.index, ("y", self.y.len()), ("x", self.x.len()))?;
        match device {
            Device::Cpu(cpu) => cpu::gather(cpu, self),
        }
        Ok(())
    }
}

impl Scatter<'_> {
    /// # Errors
    /// As [`Gather::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        check_indexed("rows.scatter", self.cols, self.index, ("x", self.x.len()), ("y", self.y.len()))?;
        match device {
            Device::Cpu(cpu) => cpu::scatter(cpu, self),
        }
        Ok(())
    }
}

impl ScatterAdd<'_> {
    /// # Errors
    /// As [`Gather::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        check_indexed("rows.scatter_add", self.cols, self.index, ("x", self.x.len()), ("y", self.y.len()))?;
        match device {
            Device::Cpu(cpu) => cpu::scatter_add(cpu, self),
        }
        Ok(())
    }
}

impl TakeColumns<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`]; [`crate::KernelError::Size`] for no columns, or a part that ends outside its row.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rows.take_columns";
        check_len(KERNEL, "x", self.x.len(), self.rows.saturating_mul(self.x_cols))?;
        check_len(KERNEL, "y", self.y.len(), self.rows.saturating_mul(self.y_cols))?;
        check_part(KERNEL, "first_col + y_cols", self.first_col, self.y_cols, self.x_cols, "at most x_cols")?;
        match device {
            Device::Cpu(cpu) => cpu::take_columns(cpu, self),
        }
        Ok(())
    }
}

impl AddColumns<'_> {
    /// # Errors
    /// As [`TakeColumns::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rows.add_columns";
        check_len(KERNEL, "x", self.x.len(), self.rows.saturating_mul(self.x_cols))?;
        check_len(KERNEL, "y", self.y.len(), self.rows.saturating_mul(self.y_cols))?;
        check_part(KERNEL, "first_col + x_cols", self.first_col, self.x_cols, self.y_cols, "at most y_cols")?;
        match device {
            Device::Cpu(cpu) => cpu::add_columns(cpu, self),
        }
        Ok(())
    }
}

/// `dense` holds one row per index, `indexed` whole rows that every index is within.
fn check_indexed(
    kernel: &'static str,
    cols: usize,
    index: Slice<'_, u32>,
    dense: (&'static str, usize),
    indexed: (&'static str, usize),
) -> Result<()> {
    check_size(kernel, "cols", cols, cols > 0, "at least 1")?;
    check_len(kernel, dense.0, dense.1, index.len().saturating_mul(cols))?;
    let rows = indexed.1 / cols;
    check_len(kernel, indexed.0, indexed.1, rows * cols)?;
    match index.cpu().iter().enumerate().find(|(_, index)| **index as usize >= rows) {
        Some((place, &index)) => Err(KernelError::RowIndex { kernel, place, index, rows }),
        None => Ok(()),
    }
}

/// Columns `first .. first + n` lie within rows of `cols` columns.
fn check_part(
    kernel: &'static str,
    argument: &'static str,
    first: usize,
    n: usize,
    cols: usize,
    want: &'static str,
) -> Result<()> {
    check_size(kernel, "columns of the part", n, n > 0, "at least 1")?;
    let end = first.saturating_add(n);
    check_size(kernel, argument, end, end <= cols, want)
}

#[cfg(test)]
mod tests;
