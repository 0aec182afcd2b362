//! Fast version: one pass over each tensor. Nothing is fused, so every instruction set gives the bits of the reference in f32.

use super::{Tensor, Update};
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;

pub(super) fn step(cpu: &Cpu, call: Update<'_>) {
    let f = call.numbers.factors();
    let step = Step {
        grad_scale: call.numbers.grad_scale,
        weight_decay: f.weight_decay as f32,
        alpha: f.alpha as f32,
        square: f.square as f32,
        eps: f.eps as f32,
        negative_step_size: f.negative_step_size as f32,
    };
    for Tensor { param, grad, square_avg } in call.tensors {
        cpu.pointwise(&step, [grad.cpu()], [param.cpu(), square_avg.cpu()]);
    }
}

/// [`super::Factors`], rounded.
struct Step {
    grad_scale: f32,
    weight_decay: f32,
    alpha: f32,
    square: f32,
    eps: f32,
    negative_step_size: f32,
}

impl Pointwise<1, 2> for Step {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [grad]: [S::V; 1], [p, v]: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let g = S::add(S::mul(S::splat(self.grad_scale), grad), S::mul(S::splat(self.weight_decay), p));
            let v = S::add(S::mul(v, S::splat(self.alpha)), S::mul(S::mul(S::splat(self.square), g), g));
            let denom = S::add(S::sqrt(v), S::splat(self.eps));
            let p = S::add(p, S::div(S::mul(S::splat(self.negative_step_size), g), denom));
            [p, v]
        }
    }
}
