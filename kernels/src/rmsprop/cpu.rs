//! Fast version: one pass. Nothing is fused, so every instruction set gives the bits of the reference in f32.

use super::RmsProp;
use crate::cpu::simd::Simd;
use crate::cpu::simd::pointwise::Pointwise;
use crate::device::Cpu;

pub(super) fn step(cpu: &Cpu, call: RmsProp<'_>) {
    let f = call.factors();
    let update = Update {
        grad_scale: call.grad_scale,
        weight_decay: f.weight_decay as f32,
        alpha: f.alpha as f32,
        square: f.square as f32,
        eps: f.eps as f32,
        negative_step_size: f.negative_step_size as f32,
    };
    cpu.pointwise(&update, [call.grad.cpu()], [call.param.cpu(), call.square_avg.cpu()]);
}

/// [`super::Factors`], rounded.
struct Update {
    grad_scale: f32,
    weight_decay: f32,
    alpha: f32,
    square: f32,
    eps: f32,
    negative_step_size: f32,
}

impl Pointwise<1, 2> for Update {
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
