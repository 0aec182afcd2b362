//! Fast version: one pass.

use super::Softcap;
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;

pub(super) fn softcap(cpu: &Cpu, call: Softcap<'_>) {
    cpu.pointwise(&Cap(call.cap), [] as [&[f32]; 0], [call.x.cpu()]);
}

struct Cap(f32);

impl Pointwise<0, 1> for Cap {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, _: [S::V; 0], [x]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe {
            let cap = S::splat(self.0);
            [S::mul(cap, S::tanh(S::div(x, cap)))]
        }
    }
}
