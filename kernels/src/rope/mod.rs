//! Rotary position encoding in the half-split layout of Hugging Face checkpoints, in place.
//!
//! For `i < rotary_dim / 2`: `(x[i], x[i + rotary_dim/2])` is rotated by `positions[r] * inv_freq[i]`; columns from `rotary_dim`
//! on stay. Cosines and sines are made once per pass by [`Tables`] and shared by all layers. Source: arXiv 2104.09864.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut};

/// `cos[r, i] = scaling[variant[r]] * cos(positions[r] * inv_freq[variant[r], i])`, the same for `sin`. The product is rounded
/// to f32 before the cosine, as the models were trained.
pub struct Tables<'a> {
    pub rows: usize,
    /// `rotary_dim / 2`
    pub half: usize,
    /// `[rows]`
    pub positions: Slice<'a, u32>,
    /// `[rows]`: which row of `inv_freq` and `scaling` a row uses
    pub variants: Slice<'a, u32>,
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
    Forward,
    /// The transposed rotation: the gradient.
    Backward,
}

/// Rotates `x` in place.
pub struct Rotate<'a> {
    pub rows: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Even, at most `head_dim`.
    pub rotary_dim: usize,
    pub direction: Direction,
    /// `[rows, rotary_dim / 2]`
    pub cos: Slice<'a, f32>,
    pub sin: Slice<'a, f32>,
    /// `[rows, heads * head_dim]`
    pub x: SliceMut<'a, f32>,
}

impl Tables<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::RowIndex`] for a
    /// variant out of range.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl Rotate<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
