//! Moving rows: gathered by index, scattered into a cache, added back, and columns split off. No arithmetic but the sums of
//! [`ScatterAdd`], which are in the order of the index.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut};

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
    /// [`crate::KernelError::Shape`]; [`crate::KernelError::RowIndex`] for an index out of range.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl Scatter<'_> {
    /// # Errors
    /// As [`Gather::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl ScatterAdd<'_> {
    /// # Errors
    /// As [`Gather::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl TakeColumns<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl AddColumns<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
