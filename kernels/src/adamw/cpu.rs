//! Fast version: one pass over each tensor. Nothing is fused, so every instruction set gives the bits of the reference in f32.

use super::{Tensor, Update};
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;

pub(super) fn step(cpu: &Cpu, call: Update<'_>) {
    let f = call.numbers.factors();
    let step = Step {
        grad_scale: call.numbers.grad_scale,
        decay: f.decay as f32,
        lerp: f.lerp as f32,
        from_end: f.lerp.abs() >= 0.5,
        beta2: f.beta2 as f32,
        square: f.square as f32,
        bias_correction2_sqrt: f.bias_correction2_sqrt as f32,
        eps: f.eps as f32,
        negative_step_size: f.negative_step_size as f32,
    };
    for Tensor { param, grad, exp_avg, exp_avg_sq } in call.tensors {
        cpu.pointwise(&step, [grad.cpu()], [param.cpu(), exp_avg.cpu(), exp_avg_sq.cpu()]);
    }
}

/// [`super::Factors`], rounded.
struct Step {
    grad_scale: f32,
    decay: f32,
    lerp: f32,
    from_end: bool,
    beta2: f32,
    square: f32,
    bias_correction2_sqrt: f32,
    eps: f32,
    negative_step_size: f32,
}

impl Pointwise<1, 3> for Step {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [grad]: [S::V; 1], [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        // SAFETY: the caller's contract.
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
