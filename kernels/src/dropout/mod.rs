//! Inverted dropout. Its mask is a function of (key, number of the row, column). So it is the same in the forward pass, in its
//! recomputation and in the backward pass, on every device and with any number of threads. The caller numbers the rows, so the mask
//! of a row does not depend on the rows beside it.
//!
//! Element (r, c) is kept if word `c % 4` of `Philox(key, counter = (numbers[r], c / 4))` is at least `p * 2^32`. Kept elements
//! are multiplied by `1 / (1 - p)`, the others become 0.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_dtype, check_len, check_size};
use crate::rng::Key;
use crate::{Device, FloatSlice, FloatSliceMut, Result, Slice};

/// `y = mask∘x / (1 - p)`; the gradient is the same call on `dy`.
pub struct Dropout<'a> {
    /// Rows of `x` and `y`.
    pub rows: usize,
    /// Columns of `x` and `y`, at least 1.
    pub cols: usize,
    /// Probability to drop, in [0, 1).
    pub p: f32,
    /// The key of the mask, made from the run's seed, the step and the place of the mask.
    pub key: Key,
    /// `[rows]`: the number of each row
    pub numbers: Slice<'a, u64>,
    /// `[rows, cols]`
    pub x: FloatSlice<'a>,
    /// `[rows, cols]`, like `x`
    pub y: FloatSliceMut<'a>,
}

impl Dropout<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Format`] if `y` has
    /// another format than `x`, [`crate::KernelError::Size`] if there are no columns.
    ///
    /// # Panics
    /// If `p` is outside [0, 1).
    pub fn run(self, device: &Device) -> Result<()> {
        check_len("dropout", "numbers", self.numbers.len(), self.rows)?;
        check_len("dropout", "x", self.x.len(), self.rows.saturating_mul(self.cols))?;
        check_len("dropout", "y", self.y.len(), self.rows.saturating_mul(self.cols))?;
        check_dtype("dropout", "y", self.y.dtype(), self.x.dtype())?;
        check_size("dropout", "cols", self.cols, self.cols > 0, "at least 1")?;
        assert!((0.0..1.0).contains(&self.p), "a dropout probability is checked where the user gives it");
        device.run("dropout", self, cpu::dropout, cuda::dropout)
    }
}

/// Returns the smallest random word that keeps an element. For an integer `word`, `word >= p * 2^32` holds exactly if `word >=
/// ceil(p * 2^32)`.
fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0).ceil() as u32
}

/// `1 / (1 - p)`
fn keep_scale(p: f32) -> f32 {
    (1.0 / (1.0 - f64::from(p))) as f32
}

#[cfg(test)]
mod tests;
