//! AdamW with decoupled weight decay. Source: arXiv 1711.05101.

use align_engine::autograd::ParamGrads;
use align_engine::param::Param;
use align_kernels::{Buffer, Device, Result, adamw};

/// The hyper-parameters and the state of the optimiser.
#[derive(Debug)]
pub struct AdamW {
    numbers: AdamNumbers,
    weight_decay: f64,
    /// Updates made so far.
    step: u64,
    /// Running means of each parameter, in the order of the parameters given to [`AdamW::new`].
    moments: Vec<Moments>,
}

/// Adam's hyper-parameters. The defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamNumbers {
    /// Decay of the mean of the gradient.
    pub beta1: f64,
    /// Decay of the mean of the gradient's square.
    pub beta2: f64,
    /// Added to the square root of the mean of the gradient's square.
    pub eps: f64,
}

impl Default for AdamNumbers {
    fn default() -> AdamNumbers {
        AdamNumbers { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// Running means of the gradient and of its square.
#[derive(Debug)]
struct Moments {
    exp_avg: Buffer<f32>,
    exp_avg_sq: Buffer<f32>,
}

impl AdamW {
    /// Makes an optimiser for `params` with zero running means.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(device: &Device, params: &[Param], numbers: AdamNumbers, weight_decay: f64) -> Result<AdamW> {
        let moments = |param: &Param| {
            let exp_avg = device.zeros("adamw.exp_avg", param.len())?;
            Ok(Moments { exp_avg, exp_avg_sq: device.zeros("adamw.exp_avg_sq", param.len())? })
        };
        let moments = params.iter().map(moments).collect::<Result<_>>()?;
        Ok(AdamW { numbers, weight_decay, step: 0, moments })
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
        let AdamW { numbers: AdamNumbers { beta1, beta2, eps }, weight_decay, step, .. } = *self;
        let numbers = adamw::Numbers { learning_rate, beta1, beta2, eps, weight_decay, step, grad_scale };
        let mut updates: Vec<_> = (params.iter().zip(&mut self.moments))
            .filter_map(|(param, moments)| Some((grads.get(param.id())?, param.write(), moments)))
            .collect();
        let tensors = updates.iter_mut().map(|(grad, param, moments)| adamw::Tensor {
            param: param.view_mut(),
            grad: grad.view(),
            exp_avg: moments.exp_avg.view_mut(),
            exp_avg_sq: moments.exp_avg_sq.view_mut(),
        });
        adamw::Update { numbers, tensors: tensors.collect() }.run(device)
    }
}
