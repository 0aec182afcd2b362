//! Fast version: one pass.

use super::{Add, AddBias};
use crate::cpu::blocks::rows_per_block;
use crate::cpu::simd::pointwise::{Map, Pointwise};
use crate::cpu::simd::{Simd, VectorTask};
use crate::device::Cpu;

pub(super) fn add(cpu: &Cpu, call: Add<'_>) {
    cpu.pointwise(&Sum, [call.x.cpu()], [call.y.cpu()]);
}

pub(super) fn add_bias(cpu: &Cpu, call: AddBias<'_>) {
    let AddBias { rows: _, cols, bias, y } = call;
    let bias = bias.cpu();
    let blocks = y.cpu().chunks_mut(rows_per_block(cols) * cols);
    cpu.for_each_block(blocks, |y| cpu.isa().dispatch(BiasRows { bias, y }));
}

/// `y + x`
pub(crate) struct Sum;

impl Pointwise<1, 1> for Sum {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x]: [S::V; 1], [y]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe { [S::add(y, x)] }
    }
}

struct BiasRows<'a> {
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl VectorTask for BiasRows<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for y in self.y.chunks_exact_mut(self.bias.len()) {
            // SAFETY: `dispatch` gives the instruction set.
            unsafe { (Map { f: &Sum, x: [self.bias], y: [y] }).run::<S>() }
        }
    }
}
