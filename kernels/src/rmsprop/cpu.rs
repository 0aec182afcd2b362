//! Fast version: one pass over each tensor. No operations are fused, so every instruction set gives the bits of the reference in
//! f32.

use super::{Factors, Tensor, Update};
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;

pub(super) fn step(cpu: &Cpu, call: Update<'_>) {
    let factors: Factors<f32> = call.numbers.factors();
    for Tensor { param, grad, square_avg } in call.tensors {
        cpu.pointwise(&factors, [grad.cpu()], [param.cpu(), square_avg.cpu()]);
    }
}

impl Pointwise<1, 2> for Factors<f32> {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [grad]: [S::V; 1], [p, v]: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe {
            let g = S::add(S::mul(S::splat(self.grad_scale), grad), S::mul(S::splat(self.weight_decay), p));
            let v = S::add(S::mul(v, S::splat(self.alpha)), S::mul(S::mul(S::splat(self.square), g), g));
            let denom = S::add(S::sqrt(v), S::splat(self.eps));
            let p = S::add(p, S::div(S::mul(S::splat(self.negative_step_size), g), denom));
            [p, v]
        }
    }
}
