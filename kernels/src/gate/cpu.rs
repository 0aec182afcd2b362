//! Fast version: one pass over the operands.

use super::{Activation, Backward, Forward};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::pointwise::{Map, Pointwise};
use crate::cpu::vectors::{Simd, Stored, VectorTask};
use crate::{FloatSlice, FloatSliceMut};

/// `sqrt(2/pi)`
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

pub(super) fn forward(cpu: &Cpu, call: Forward<'_>) {
    let Forward { rows: _, cols, activation, gate_up, y } = call;
    match (gate_up, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => forward_rows(cpu, cols, activation, x.cpu(), y.cpu()),
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => forward_rows(cpu, cols, activation, x.cpu(), y.cpu()),
        _ => unreachable!("`run` checked the formats"),
    }
}

pub(super) fn backward(cpu: &Cpu, call: Backward<'_>) {
    let Backward { rows: _, cols, activation, gate_up, dy, d_gate_up } = call;
    match (gate_up, dy, d_gate_up) {
        (FloatSlice::F32(x), FloatSlice::F32(dy), FloatSliceMut::F32(dx)) => {
            backward_rows(cpu, cols, activation, x.cpu(), dy.cpu(), dx.cpu());
        }
        (FloatSlice::Bf16(x), FloatSlice::Bf16(dy), FloatSliceMut::Bf16(dx)) => {
            backward_rows(cpu, cols, activation, x.cpu(), dy.cpu(), dx.cpu());
        }
        _ => unreachable!("`run` checked the formats"),
    }
}

fn forward_rows<T: Stored>(cpu: &Cpu, cols: usize, activation: Activation, x: &[T], y: &mut [T]) {
    let block = rows_per_block(2 * cols);
    cpu.for_each_block(x.chunks(block * 2 * cols).zip(y.chunks_mut(block * cols)), |(x, y)| match activation {
        Activation::Silu => cpu.isa().dispatch(ForwardRows { f: Silu, cols, x, y }),
        Activation::GeluTanh => cpu.isa().dispatch(ForwardRows { f: GeluTanh, cols, x, y }),
    });
}

fn backward_rows<T: Stored>(cpu: &Cpu, cols: usize, activation: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
    let block = rows_per_block(2 * cols);
    let blocks = x.chunks(block * 2 * cols).zip(dy.chunks(block * cols)).zip(dx.chunks_mut(block * 2 * cols));
    cpu.for_each_block(blocks, |((x, dy), dx)| match activation {
        Activation::Silu => cpu.isa().dispatch(BackwardRows { f: Silu, cols, x, dy, dx }),
        Activation::GeluTanh => cpu.isa().dispatch(BackwardRows { f: GeluTanh, cols, x, dy, dx }),
    });
}

struct ForwardRows<'a, F, T> {
    f: F,
    cols: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<F: Pointwise<2, 1>, T: Stored> VectorTask for ForwardRows<'_, F, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ForwardRows { f, cols, x, y } = self;
        for (x, y) in x.chunks_exact(2 * cols).zip(y.chunks_exact_mut(cols)) {
            let (gate, up) = x.split_at(cols);
            // SAFETY: `dispatch` runs this only on a processor with the instruction set.
            unsafe { (Map { f: &f, x: [gate, up], y: [y] }).run::<S>() }
        }
    }
}

struct BackwardRows<'a, F, T> {
    f: F,
    cols: usize,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<F: Pointwise<3, 2>, T: Stored> VectorTask for BackwardRows<'_, F, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BackwardRows { f, cols, x, dy, dx } = self;
        for ((x, dy), dx) in x.chunks_exact(2 * cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(2 * cols)) {
            let ((gate, up), (d_gate, d_up)) = (x.split_at(cols), dx.split_at_mut(cols));
            // SAFETY: `dispatch` runs this only on a processor with the instruction set.
            unsafe { (Map { f: &f, x: [gate, up, dy], y: [d_gate, d_up] }).run::<S>() }
        }
    }
}

struct Silu;

impl Pointwise<2, 1> for Silu {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe { [S::mul(S::mul(gate, S::sigmoid(gate)), up)] }
    }
}

impl Pointwise<3, 2> for Silu {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe {
            let one = S::splat(1.0);
            let sigmoid = S::sigmoid(gate);
            // sigmoid * (1 + gate * (1 - sigmoid))
            let derivative = S::mul(sigmoid, S::fma(gate, S::sub(one, sigmoid), one));
            [S::mul(S::mul(dy, up), derivative), S::mul(dy, S::mul(gate, sigmoid))]
        }
    }
}

struct GeluTanh;

impl GeluTanh {
    /// Returns `z = 2 sqrt(2/pi) (x + 0.044715 x³)`. `0.5 (1 + tanh(z/2))` is `sigmoid(z)`, which does not cancel. `z` is cut
    /// at -80, where the sigmoid is 2e-35: farther down it would become subnormal, which is a hundred times slower to multiply.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    #[inline(always)]
    unsafe fn z<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller guarantees the instruction set of `S`.
        unsafe {
            let cube = S::mul(S::mul(S::mul(S::splat(GELU_CUBIC), x), x), x);
            // z is the second operand of `max`, so NaN stays NaN
            S::max(S::splat(-80.0), S::mul(S::splat(2.0 * GELU_SCALE), S::add(x, cube)))
        }
    }
}

impl Pointwise<2, 1> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe { [S::mul(S::mul(gate, S::sigmoid(Self::z::<S>(gate))), up)] }
    }
}

impl Pointwise<3, 2> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the processor has the instruction set of S, by the contract of `Pointwise::apply`.
        unsafe {
            let one = S::splat(1.0);
            // sigmoid(z) = 1 / (1 + e) and 1 - sigmoid(z) = e / (1 + e), e = exp(-z)
            let e = S::exp(S::sub(S::splat(0.0), Self::z::<S>(gate)));
            let sigmoid = S::div(one, S::add(one, e));
            let rest = S::mul(e, sigmoid);
            // dz/dx
            let cubic = S::mul(S::splat(3.0 * GELU_CUBIC), S::mul(gate, gate));
            let slope = S::mul(S::splat(2.0 * GELU_SCALE), S::add(one, cubic));
            // sigmoid * (1 + gate * (1 - sigmoid) * dz/dx)
            let derivative = S::mul(sigmoid, S::fma(gate, S::mul(rest, slope), one));
            [S::mul(S::mul(dy, up), derivative), S::mul(dy, S::mul(gate, sigmoid))]
        }
    }
}
