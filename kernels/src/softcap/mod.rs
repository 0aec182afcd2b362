//! Caps logits in place: `x = cap * tanh(x / cap)`. Gemma 2 needs it in generation, which reads the logits themselves.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::check_len;
use crate::{Device, Result, SliceMut};

/// `x = cap * tanh(x / cap)`, in place
pub struct Softcap<'a> {
    /// Number of elements of `x`.
    pub len: usize,
    /// Results stay between `-cap` and `cap`.
    pub cap: f32,
    /// `[len]`
    pub x: SliceMut<'a, f32>,
}

impl Softcap<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if `x` does not have `len` elements.
    pub fn run(self, device: &Device) -> Result<()> {
        check_len("softcap", "x", self.x.len(), self.len)?;
        device.run("softcap", self, cpu::softcap, cuda::softcap)
    }
}

#[cfg(test)]
mod tests;
