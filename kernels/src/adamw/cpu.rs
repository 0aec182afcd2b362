//! Fast version: one pass over each tensor. No operations are fused, so the results have the bits of the f32 reference with every
//! instruction set.

use super::{Factors, Tensor, Update};
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;

pub(super) fn step(cpu: &Cpu, call: Update<'_>) {
    let factors: Factors<f32> = call.numbers.factors();
    for Tensor { param, grad, exp_avg, exp_avg_sq } in call.tensors {
        cpu.pointwise(&factors, [grad.cpu()], [param.cpu(), exp_avg.cpu(), exp_avg_sq.cpu()]);
    }
}

impl Pointwise<1, 3> for Factors<f32> {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [grad]: [S::V; 1], [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        // SAFETY: the caller of `Pointwise::apply` promises that the processor has the instruction set of S.
        unsafe {
            let g = S::mul(S::splat(self.grad_scale), grad);
            let p = S::mul(p, S::splat(self.decay));
            let way = S::sub(g, m);
            let m = if self.from_end {
                S::sub(g, S::mul(way, S::splat(1.0 - self.lerp)))
            } else {
                S::add(m, S::mul(S::splat(self.lerp), way))
            };
            let v = S::add(S::mul(v, S::splat(self.beta2)), S::mul(S::mul(S::splat(self.square), g), g));
            let denom = S::add(S::div(S::sqrt(v), S::splat(self.bias_correction2_sqrt)), S::splat(self.eps));
            let p = S::add(p, S::div(S::mul(S::splat(self.negative_step_size), m), denom));
            [p, m, v]
        }
    }
}
