//! CUDA version: a launch for each tensor.

use super::{Factors, Tensor, Update};
use crate::Result;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};

#[repr(C)]
struct Args {
    param: PtrMut<f32>,
    square_avg: PtrMut<f32>,
    grad: Ptr<f32>,
    len: u64,
    grad_scale: f32,
    weight_decay: f32,
    alpha: f32,
    square: f32,
    eps: f32,
    negative_step_size: f32,
}

const RMSPROP: Entry<Args> = Entry::new(Module::Rmsprop, c"rmsprop", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![RMSPROP.any()]
}

pub(super) fn step(cuda: &Cuda, call: Update<'_>) -> Result<()> {
    let f: Factors<f32> = call.numbers.factors();
    for Tensor { param, grad, square_avg } in call.tensors {
        let len = param.len();
        let arguments = Args {
            param: param.cuda(),
            square_avg: square_avg.cuda(),
            grad: grad.cuda(),
            len: len as u64,
            grad_scale: f.grad_scale,
            weight_decay: f.weight_decay,
            alpha: f.alpha,
            square: f.square,
            eps: f.eps,
            negative_step_size: f.negative_step_size,
        };
        cuda.launch(&RMSPROP, Grid::elements(len, RMSPROP.threads), arguments)?;
    }
    Ok(())
}
