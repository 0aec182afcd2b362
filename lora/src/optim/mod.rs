//! Optimisers, learning-rate schedules, gradient clipping.

mod adamw;
mod clip;
mod schedule;

pub use adamw::{AdamW, Moments};
pub use clip::{clip_factor, global_norm};
pub use schedule::{Schedule, ScheduleKind};

use align_engine::autograd::ParamGrads;
use align_engine::autograd::param::Param;
use align_kernels::{Device, Result};

/// The optimisers. An enum, because a checkpoint must be able to say which one it holds.
#[derive(Debug)]
pub enum Optimizer {
    AdamW(AdamW),
}

impl Optimizer {
    /// One update of every parameter that has a gradient; `grad_scale` is the clipping factor.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn step(
        &mut self,
        device: &Device,
        params: &[Param],
        grads: &ParamGrads,
        learning_rate: f64,
        grad_scale: f32,
    ) -> Result<()> {
        match self {
            Optimizer::AdamW(adamw) => adamw.step(device, params, grads, learning_rate, grad_scale),
        }
    }
}
