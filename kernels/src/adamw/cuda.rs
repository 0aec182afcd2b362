//! CUDA version: a launch for each tensor.

use super::{Factors, Tensor, Update};
use crate::Result;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};

#[repr(C)]
struct Args {
    param: PtrMut<f32>,
    exp_avg: PtrMut<f32>,
    exp_avg_sq: PtrMut<f32>,
    grad: Ptr<f32>,
    len: u64,
    grad_scale: f32,
    decay: f32,
    lerp: f32,
    beta2: f32,
    square: f32,
    bias_correction2_sqrt: f32,
    eps: f32,
    negative_step_size: f32,
    from_end: u32,
}

const ADAMW: Entry<Args> = Entry::new(Module::Adamw, c"adamw", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![ADAMW.any()]
}

pub(super) fn step(cuda: &Cuda, call: Update<'_>) -> Result<()> {
    let f: Factors<f32> = call.numbers.factors();
    for Tensor { param, grad, exp_avg, exp_avg_sq } in call.tensors {
        let len = param.len();
        let arguments = Args {
            param: param.cuda(),
            exp_avg: exp_avg.cuda(),
            exp_avg_sq: exp_avg_sq.cuda(),
            grad: grad.cuda(),
            len: len as u64,
            grad_scale: f.grad_scale,
            decay: f.decay,
            lerp: f.lerp,
            beta2: f.beta2,
            square: f.square,
            bias_correction2_sqrt: f.bias_correction2_sqrt,
            eps: f.eps,
            negative_step_size: f.negative_step_size,
            from_end: u32::from(f.from_end),
        };
        cuda.launch(&ADAMW, Grid::elements(len, ADAMW.threads), arguments)?;
    }
    Ok(())
}
