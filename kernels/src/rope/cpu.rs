//! Fast version: splits the rows over the threads in blocks. No operations are fused, so every instruction set rotates with the
//! bits of the reference in f32.

use super::{Direction, Rotate, Tables};
use crate::FloatSliceMut;
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::pointwise::{Map, Pointwise};
use crate::cpu::vectors::{Simd, Stored, VectorTask};

/// How many elements a simple kernel computes in the time of one cosine and one sine in f64.
const COST_OF_AN_ANGLE: usize = 32;

pub(super) fn tables(cpu: &Cpu, call: Tables<'_>) {
    let Tables { rows: _, half, positions, variants, inv_freq, scaling, cos, sin } = call;
    let (inv_freq, scaling) = (inv_freq.cpu(), scaling.cpu());
    let block = rows_per_block(half * COST_OF_AN_ANGLE);
    let blocks = positions
        .cpu()
        .chunks(block)
        .zip(variants.cpu().chunks(block))
        .zip(cos.cpu().chunks_mut(block * half))
        .zip(sin.cpu().chunks_mut(block * half));
    cpu.for_each_block(blocks, |(((positions, variants), cos), sin)| {
        let rows = positions.iter().zip(variants).zip(cos.chunks_exact_mut(half)).zip(sin.chunks_exact_mut(half));
        for (((&position, &variant), cos), sin) in rows {
            let inv_freq = &inv_freq[variant as usize * half..][..half];
            let scaling = scaling[variant as usize];
            for i in 0..half {
                // the angle is rounded to f32; its cosine and sine are computed in f64, because those of a large angle in f32 are
                // not the same on every platform
                let (s, c) = f64::from(position as f32 * inv_freq[i]).sin_cos();
                cos[i] = scaling * c as f32;
                sin[i] = scaling * s as f32;
            }
        }
    });
}

pub(super) fn rotate(cpu: &Cpu, call: Rotate<'_>) {
    let Rotate { rows: _, heads, head_dim, rotary_dim, direction, cos, sin, stride, x } = call;
    let (half, cols) = (rotary_dim / 2, heads * head_dim);
    let call = RotateCall { cols, stride, head_dim, half, direction };
    match x {
        FloatSliceMut::F32(x) => call.run(cpu, cos.cpu(), sin.cpu(), x.cpu()),
        FloatSliceMut::Bf16(x) => call.run(cpu, cos.cpu(), sin.cpu(), x.cpu()),
    }
}

/// The part of a call that does not depend on the format.
struct RotateCall {
    cols: usize,
    stride: usize,
    head_dim: usize,
    half: usize,
    direction: Direction,
}

impl RotateCall {
    fn run<T: Stored>(&self, cpu: &Cpu, cos: &[f32], sin: &[f32], x: &mut [T]) {
        let &RotateCall { stride, half, direction, .. } = self;
        let block = rows_per_block(stride);
        let blocks = cos.chunks(block * half).zip(sin.chunks(block * half)).zip(x.chunks_mut(block * stride));
        cpu.for_each_block(blocks, |((cos, sin), x)| match direction {
            Direction::Forward => cpu.isa().dispatch(Rows { call: self, f: Clockwise::<false>, cos, sin, x }),
            Direction::Backward => cpu.isa().dispatch(Rows { call: self, f: Clockwise::<true>, cos, sin, x }),
        });
    }
}

struct Rows<'a, F, T> {
    call: &'a RotateCall,
    f: F,
    cos: &'a [f32],
    sin: &'a [f32],
    x: &'a mut [T],
}

impl<F: Pointwise<2, 2>, T: Stored> VectorTask for Rows<'_, F, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Rows { call, f, cos, sin, x } = self;
        let &RotateCall { cols, stride, head_dim, half, .. } = call;
        for ((cos, sin), x) in cos.chunks_exact(half).zip(sin.chunks_exact(half)).zip(x.chunks_exact_mut(stride)) {
            for head in x[..cols].chunks_exact_mut(head_dim) {
                let (a, b) = head.split_at_mut(half);
                // SAFETY: `dispatch` runs this only on a processor with the instruction set.
                unsafe { (Map { f: &f, x: [cos, sin], y: [a, &mut b[..half]] }).run::<S>() }
            }
        }
    }
}

/// The rotation by the angle, or the transposed rotation if `YES`.
struct Clockwise<const YES: bool>;

impl<const YES: bool> Pointwise<2, 2> for Clockwise<YES> {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [cos, sin]: [S::V; 2], [a, b]: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe {
            let (ac, bs) = (S::mul(a, cos), S::mul(b, sin));
            let (bc, as_) = (S::mul(b, cos), S::mul(a, sin));
            if YES { [S::add(ac, bs), S::sub(bc, as_)] } else { [S::sub(ac, bs), S::add(bc, as_)] }
        }
    }
}
