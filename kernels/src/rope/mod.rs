//! Rotary position encoding in the half-split layout of Hugging Face checkpoints, in place.
//!
//! For `i < rotary_dim / 2`: `(x[i], x[i + rotary_dim/2])` of a head is rotated by `positions[r] * inv_freq[i]`. A head's columns
//! from `rotary_dim` on keep their values. [`Tables`] computes the cosines and sines once per pass, and all layers share them.
//! Source: arXiv 2104.09864. docs/derivations/rope.md derives the backward pass.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_len, check_size};
use crate::{Device, FloatSliceMut, IndexSlice, KernelError, Result, Slice, SliceMut};

/// `cos[r, i] = scaling[variants[r]] * cos(positions[r] * inv_freq[variants[r], i])`, and likewise `sin`. The angle, a product,
/// is rounded to f32 before its cosine is computed, because the models were trained that way.
pub struct Tables<'a> {
    /// Rows of the pass.
    pub rows: usize,
    /// `rotary_dim / 2`
    pub half: usize,
    /// `[rows]`
    pub positions: Slice<'a, u32>,
    /// `[rows]`: which row of `inv_freq` and `scaling` a row uses
    pub variants: IndexSlice<'a>,
    /// `[n_variants, half]`
    pub inv_freq: Slice<'a, f32>,
    /// `[n_variants]`
    pub scaling: Slice<'a, f32>,
    /// `[rows, half]`
    pub cos: SliceMut<'a, f32>,
    /// `[rows, half]`
    pub sin: SliceMut<'a, f32>,
}

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Rotates by the angles of the row.
    Forward,
    /// Applies the transposed rotation, for gradients.
    Backward,
}

/// Rotates `x` in place.
pub struct Rotate<'a> {
    /// Rows of `x`.
    pub rows: usize,
    /// Heads to rotate in each row.
    pub heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Columns of a head that are rotated. Even, at most `head_dim`.
    pub rotary_dim: usize,
    /// [`Direction::Backward`] if `x` is a gradient.
    pub direction: Direction,
    /// `[rows, rotary_dim / 2]`
    pub cos: Slice<'a, f32>,
    /// `[rows, rotary_dim / 2]`
    pub sin: Slice<'a, f32>,
    /// Elements from row to row. The heads are the first columns; the columns after them keep their values.
    pub stride: usize,
    /// `[rows, stride]`
    pub x: FloatSliceMut<'a>,
}

impl Tables<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::RowIndex`] for a variant
    /// out of range; [`crate::KernelError::Size`] if `half` is 0.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rope.tables";
        let n_variants = self.scaling.len();
        check_len(KERNEL, "positions", self.positions.len(), self.rows)?;
        check_len(KERNEL, "variants", self.variants.len(), self.rows)?;
        check_len(KERNEL, "inv_freq", self.inv_freq.len(), n_variants.saturating_mul(self.half))?;
        check_len(KERNEL, "cos", self.cos.len(), self.rows.saturating_mul(self.half))?;
        check_len(KERNEL, "sin", self.sin.len(), self.rows.saturating_mul(self.half))?;
        check_size(KERNEL, "half", self.half, self.half > 0, "at least 1")?;
        if let Some((place, index)) = self.variants.first_outside(0..n_variants)? {
            return Err(KernelError::RowIndex { kernel: KERNEL, place, index, rows: n_variants });
        }
        device.run(KERNEL, self, cpu::tables, cuda::tables)
    }
}

impl Rotate<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::Size`] for a `rotary_dim`
    /// that is odd or above `head_dim`, and for heads wider than the stride.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "rope.rotate";
        let half = self.rotary_dim / 2;
        let fits = self.rotary_dim.is_multiple_of(2) && self.rotary_dim <= self.head_dim;
        check_size(KERNEL, "rotary_dim", self.rotary_dim, fits, "even and at most head_dim")?;
        check_len(KERNEL, "cos", self.cos.len(), self.rows.saturating_mul(half))?;
        check_len(KERNEL, "sin", self.sin.len(), self.rows.saturating_mul(half))?;
        check_len(KERNEL, "x", self.x.len(), self.rows.saturating_mul(self.stride))?;
        let cols = self.heads.saturating_mul(self.head_dim);
        check_size(KERNEL, "heads * head_dim", cols, cols <= self.stride, "at most the stride")?;
        if half == 0 || self.heads == 0 {
            return Ok(()); // nothing turns
        }
        device.run(KERNEL, self, cpu::rotate, cuda::rotate)
    }
}

#[cfg(test)]
mod tests;
