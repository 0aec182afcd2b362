//! Optimisers, learning-rate schedules, gradient clipping.

mod adamw;
mod clip;
mod rmsprop;
mod schedule;

pub use adamw::{AdamNumbers, AdamW};
pub use clip::{clip_factor, global_norm};
pub use rmsprop::RmsProp;
pub use schedule::{Schedule, ScheduleKind, Warmup};

use align_engine::autograd::ParamGrads;
use align_engine::param::Param;
use align_kernels::{Device, Result};

/// The optimiser of a run, with its state.
#[derive(Debug)]
pub enum Optimizer {
    /// Two running means for each parameter.
    AdamW(AdamW),
    /// One running mean for each parameter.
    RmsProp(RmsProp),
}

/// Which optimiser a run uses, with its hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// With decoupled weight decay.
    AdamW(AdamNumbers),
    /// With coupled weight decay.
    RmsProp {
        /// Decay of the running mean of the squared gradient.
        alpha: f64,
    },
}

impl Default for OptimizerKind {
    fn default() -> OptimizerKind {
        OptimizerKind::AdamW(AdamNumbers::default())
    }
}

impl Optimizer {
    /// Makes an optimiser with a fresh state for `params`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(device: &Device, params: &[Param], kind: OptimizerKind, weight_decay: f64) -> Result<Optimizer> {
        Ok(match kind {
            OptimizerKind::AdamW(numbers) => Optimizer::AdamW(AdamW::new(device, params, numbers, weight_decay)?),
            OptimizerKind::RmsProp { alpha } => Optimizer::RmsProp(RmsProp::new(device, params, alpha, weight_decay)?),
        })
    }

    /// Updates every parameter that has a gradient. `grad_scale` is the clipping factor.
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
            Optimizer::RmsProp(rmsprop) => rmsprop.step(device, params, grads, learning_rate, grad_scale),
        }
    }
}
