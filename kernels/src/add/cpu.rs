//! Fast version: one pass.

use super::Add;
use crate::cpu::Cpu;
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::Pointwise;
use crate::{FloatSlice, FloatSliceMut};

pub(super) fn add(cpu: &Cpu, call: Add<'_>) {
    match (call.x, call.y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => cpu.pointwise(&Sum, [x.cpu()], [y.cpu()]),
        (FloatSlice::F32(x), FloatSliceMut::Bf16(y)) => cpu.pointwise(&Sum, [x.cpu()], [y.cpu()]),
        (FloatSlice::Bf16(x), FloatSliceMut::F32(y)) => cpu.pointwise(&Sum, [x.cpu()], [y.cpu()]),
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => cpu.pointwise(&Sum, [x.cpu()], [y.cpu()]),
    }
}

/// `y + x`
pub(crate) struct Sum;

impl Pointwise<1, 1> for Sum {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x]: [S::V; 1], [y]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller of `Pointwise::apply` promises that the processor has the instruction set of S.
        unsafe { [S::add(y, x)] }
    }
}
