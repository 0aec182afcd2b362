//! One AdamW update with decoupled weight decay (arXiv 1711.05101, alg. 2). The order of operations is torch's.
//!
//! ```text
//! g = grad_scale * grad
//! p *= 1 - lr * weight_decay
//! m = beta1 * m + (1 - beta1) * g
//! v = beta2 * v + (1 - beta2) * g²
//! p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//! ```

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::check_len;
use crate::real::Real;
use crate::{Device, Result, Slice, SliceMut};

/// One update of many tensors; see the module.
pub struct Update<'a> {
    /// The numbers of the update, for every tensor.
    pub numbers: Numbers,
    /// The tensors, updated in this order.
    pub tensors: Vec<Tensor<'a>>,
}

/// The numbers of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// `lr` of the formula.
    pub learning_rate: f64,
    /// Share of the first moment that a step keeps.
    pub beta1: f64,
    /// Share of the second moment that a step keeps.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
    /// A step first multiplies each parameter by `1 - learning_rate * weight_decay`.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// The clipping factor. It multiplies every gradient.
    pub grad_scale: f32,
}

/// A parameter with its gradient and its state, all of one length.
pub struct Tensor<'a> {
    /// Updated in place.
    pub param: SliceMut<'a, f32>,
    /// The gradient, before `grad_scale` multiplies it.
    pub grad: Slice<'a, f32>,
    /// First moment.
    pub exp_avg: SliceMut<'a, f32>,
    /// Second moment.
    pub exp_avg_sq: SliceMut<'a, f32>,
}

impl Update<'_> {
    /// Updates the tensors.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] if the slices of a tensor differ in length.
    ///
    /// # Panics
    /// If `step` is 0.
    pub fn run(self, device: &Device) -> Result<()> {
        for Tensor { param, grad, exp_avg, exp_avg_sq } in &self.tensors {
            check_len("adamw", "grad", grad.len(), param.len())?;
            check_len("adamw", "exp_avg", exp_avg.len(), param.len())?;
            check_len("adamw", "exp_avg_sq", exp_avg_sq.len(), param.len())?;
        }
        assert!(self.numbers.step > 0, "steps are counted from 1");
        device.run("adamw", self, cpu::step, cuda::step)
    }
}

/// Factors that are the same for every element. They are computed in f64, as in torch, and rounded once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors<R> {
    /// The clipping factor.
    pub grad_scale: R,
    /// `1 - lr * weight_decay`
    pub decay: R,
    /// `1 - beta1`
    pub lerp: R,
    /// Whether `lerp` is at least 1/2. Like torch's lerp, the update of the first moment then starts from `g`, the nearer end.
    pub from_end: bool,
    /// Share of the second moment that a step keeps.
    pub beta2: R,
    /// `1 - beta2`
    pub square: R,
    /// `sqrt(1 - beta2^step)`
    pub bias_correction2_sqrt: R,
    /// Added to the root of the corrected second moment.
    pub eps: R,
    /// `-lr / (1 - beta1^step)`
    pub negative_step_size: R,
}

impl Numbers {
    /// Returns the factors of this step.
    pub(crate) fn factors<R: Real>(&self) -> Factors<R> {
        let step = self.step as f64;
        let lerp = 1.0 - self.beta1;
        Factors {
            grad_scale: R::from_f32(self.grad_scale),
            decay: R::from_f64(1.0 - self.learning_rate * self.weight_decay),
            lerp: R::from_f64(lerp),
            from_end: lerp.abs() >= 0.5,
            beta2: R::from_f64(self.beta2),
            square: R::from_f64(1.0 - self.beta2),
            bias_correction2_sqrt: R::from_f64((1.0 - self.beta2.powf(step)).sqrt()),
            eps: R::from_f64(self.eps),
            negative_step_size: R::from_f64(-(self.learning_rate / (1.0 - self.beta1.powf(step)))),
        }
    }
}

#[cfg(test)]
mod tests;
