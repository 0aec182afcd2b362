//! One RMSProp update with coupled weight decay, neither centred nor with momentum. The order of operations is torch's.
//! Source: Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012. `eps` is added outside the root, as in torch.
//!
//! ```text
//! g = grad_scale * grad + weight_decay * p
//! v = alpha * v + (1 - alpha) * g²
//! p -= lr * g / (sqrt(v) + eps)
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
    /// The same for every tensor.
    pub numbers: Numbers,
    /// Updated in this order.
    pub tensors: Vec<Tensor<'a>>,
}

/// The numbers of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// `lr` of the formula.
    pub learning_rate: f64,
    /// Share of the running mean that a step keeps.
    pub alpha: f64,
    /// Added to the root of the running mean.
    pub eps: f64,
    /// Factor of the parameter. The product is added to the parameter's gradient.
    pub weight_decay: f64,
    /// Multiplies every gradient: the clipping factor.
    pub grad_scale: f32,
}

/// A parameter with its gradient and its state, all of one length.
pub struct Tensor<'a> {
    /// Updated in place.
    pub param: SliceMut<'a, f32>,
    /// The gradient before it is multiplied by `grad_scale`.
    pub grad: Slice<'a, f32>,
    /// Running mean of the squared gradient.
    pub square_avg: SliceMut<'a, f32>,
}

impl Update<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if the slices of a tensor differ in length.
    pub fn run(self, device: &Device) -> Result<()> {
        for Tensor { param, grad, square_avg } in &self.tensors {
            check_len("rmsprop", "grad", grad.len(), param.len())?;
            check_len("rmsprop", "square_avg", square_avg.len(), param.len())?;
        }
        device.run("rmsprop", self, cpu::step, cuda::step)
    }
}

/// Factors that are the same for every element, computed in f64 as in torch and rounded once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors<R> {
    /// Multiplies every gradient: the clipping factor.
    pub grad_scale: R,
    /// Factor of the parameter. The product is added to the parameter's gradient.
    pub weight_decay: R,
    /// Share of the running mean that a step keeps.
    pub alpha: R,
    /// `1 - alpha`
    pub square: R,
    /// Added to the root of the running mean.
    pub eps: R,
    /// `-lr`
    pub negative_step_size: R,
}

impl Numbers {
    /// Returns the factors of this step.
    pub(crate) fn factors<R: Real>(&self) -> Factors<R> {
        Factors {
            grad_scale: R::from_f32(self.grad_scale),
            weight_decay: R::from_f64(self.weight_decay),
            alpha: R::from_f64(self.alpha),
            square: R::from_f64(1.0 - self.alpha),
            eps: R::from_f64(self.eps),
            negative_step_size: R::from_f64(-self.learning_rate),
        }
    }
}

#[cfg(test)]
mod tests;
