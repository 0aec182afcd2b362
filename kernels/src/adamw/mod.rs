//! One AdamW update with decoupled weight decay. Source: arXiv 1711.05101, alg. 2; the order of operations is torch's.
//!
//! ```text
//! g = grad_scale * grad
//! p *= 1 - lr * weight_decay
//! m = beta1 * m + (1 - beta1) * g
//! v = beta2 * v + (1 - beta2) * g²
//! p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//! ```

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut};

/// See the module. All slices `[len]`.
pub struct AdamW<'a> {
    pub len: usize,
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// From 1.
    pub step: u64,
    /// The clipping factor.
    pub grad_scale: f32,
    pub param: SliceMut<'a, f32>,
    pub grad: Slice<'a, f32>,
    /// First moment.
    pub exp_avg: SliceMut<'a, f32>,
    /// Second moment.
    pub exp_avg_sq: SliceMut<'a, f32>,
}

impl AdamW<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
