//! AdamW with decoupled weight decay. Source: arXiv 1711.05101.

use align_engine::autograd::ParamGrads;
use align_engine::autograd::param::Param;
use align_kernels::{Buffer, Device, Result, adamw};

/// Hyper-parameters and state.
#[derive(Debug)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Updates made so far.
    pub step: u64,
    /// Of each parameter, in the order of the adapter.
    pub moments: Vec<Moments>,
}

/// Running means of the gradient and of its square.
#[derive(Debug)]
pub struct Moments {
    pub exp_avg: Buffer<f32>,
    pub exp_avg_sq: Buffer<f32>,
}

impl AdamW {
    /// A fresh state for `params`, with beta 0.9 and 0.999 and eps 1e-8.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(device: &Device, params: &[Param], weight_decay: f64) -> Result<AdamW> {
        let moments = params
            .iter()
            .map(|param| {
                Ok(Moments {
                    exp_avg: device.zeros("adamw.exp_avg", param.len())?,
                    exp_avg_sq: device.zeros("adamw.exp_avg_sq", param.len())?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: 0, moments })
    }

    pub(super) fn step(
        &mut self,
        device: &Device,
        params: &[Param],
        grads: &ParamGrads,
        learning_rate: f64,
        grad_scale: f32,
    ) -> Result<()> {
        self.step += 1;
        for (param, moments) in params.iter().zip(&mut self.moments) {
            let Some(grad) = grads.get(param.id()) else { continue };
            adamw::AdamW {
                len: param.len(),
                learning_rate,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: self.weight_decay,
                step: self.step,
                grad_scale,
                param: param.write().view_mut(),
                grad: grad.view(),
                exp_avg: moments.exp_avg.view_mut(),
                exp_avg_sq: moments.exp_avg_sq.view_mut(),
            }
            .run(device)?;
        }
        Ok(())
    }
}
