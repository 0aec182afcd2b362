//! Inverted dropout whose mask is a function of (key, row, column): the same in the forward pass, in its recomputation and in
//! the backward pass, on every device, whatever the thread count.
//!
//! Element (r, c) is kept if word `c % 4` of `Philox(key, counter = (first_row + r, c / 4))` is at least `p * 2^32`; kept ones
//! are multiplied by `1 / (1 - p)`.

pub mod case;
mod cpu;
pub mod reference;

use crate::rng::Key;
use crate::{Device, Result, Slice, SliceMut};

/// `y = mask∘x / (1 - p)`; the gradient is the same call on `dy`.
pub struct Dropout<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Probability to drop, in [0, 1).
    pub p: f32,
    /// Seed, step and place.
    pub key: Key,
    /// Counter of the first row.
    pub first_row: u64,
    /// `[rows, cols]`
    pub x: Slice<'a, f32>,
    /// `[rows, cols]`
    pub y: SliceMut<'a, f32>,
}

impl Dropout<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
