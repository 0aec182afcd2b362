//! RMSProp as in torch, neither centred nor with momentum. The weight decay is coupled, that is, added to the gradient.

use align_engine::autograd::ParamGrads;
use align_engine::param::Param;
use align_kernels::{Buffer, Device, Result, rmsprop};

/// Hyper-parameters and state.
#[derive(Debug)]
pub struct RmsProp {
    alpha: f64,
    eps: f64,
    weight_decay: f64,
    /// Running mean of the squared gradient of each parameter, in the order of the adapter's parameters.
    square_avgs: Vec<Buffer<f32>>,
}

impl RmsProp {
    /// torch's default decay of the running mean of the squared gradient.
    pub const ALPHA: f64 = 0.99;
    /// torch's default epsilon, added to the square root of that mean.
    const EPS: f64 = 1e-8;

    /// Makes a fresh state for `params`, with eps 1e-8.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(device: &Device, params: &[Param], alpha: f64, weight_decay: f64) -> Result<RmsProp> {
        let zeros = |param: &Param| device.zeros("rmsprop.square_avg", param.len());
        let square_avgs = params.iter().map(zeros).collect::<Result<_>>()?;
        Ok(RmsProp { alpha, eps: RmsProp::EPS, weight_decay, square_avgs })
    }

    pub(super) fn step(
        &mut self,
        device: &Device,
        params: &[Param],
        grads: &ParamGrads,
        learning_rate: f64,
        grad_scale: f32,
    ) -> Result<()> {
        let RmsProp { alpha, eps, weight_decay, .. } = *self;
        let numbers = rmsprop::Numbers { learning_rate, alpha, eps, weight_decay, grad_scale };
        let mut updates: Vec<_> = (params.iter().zip(&mut self.square_avgs))
            .filter_map(|(param, square_avg)| Some((grads.get(param.id())?, param.write(), square_avg)))
            .collect();
        let tensors = updates.iter_mut().map(|(grad, param, square_avg)| rmsprop::Tensor {
            param: param.view_mut(),
            grad: grad.view(),
            square_avg: square_avg.view_mut(),
        });
        rmsprop::Update { numbers, tensors: tensors.collect() }.run(device)
    }
}
