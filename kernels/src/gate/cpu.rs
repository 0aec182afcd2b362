//! Fast version: one pass over the operands.

use super::{Activation, Backward, Forward};
use crate::cpu::simd::Simd;
use crate::cpu::simd::pointwise::Pointwise;
use crate::device::Cpu;

/// `sqrt(2/pi)`
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

pub(super) fn forward(cpu: &Cpu, call: Forward<'_>) {
    let x = [call.gate.cpu(), call.up.cpu()];
    let y = [call.y.cpu()];
    match call.activation {
        Activation::Silu => cpu.pointwise(&Silu, x, y),
        Activation::GeluTanh => cpu.pointwise(&GeluTanh, x, y),
    }
}

pub(super) fn backward(cpu: &Cpu, call: Backward<'_>) {
    let x = [call.gate.cpu(), call.up.cpu(), call.dy.cpu()];
    let y = [call.d_gate.cpu(), call.d_up.cpu()];
    match call.activation {
        Activation::Silu => cpu.pointwise(&Silu, x, y),
        Activation::GeluTanh => cpu.pointwise(&GeluTanh, x, y),
    }
}

struct Silu;

impl Pointwise<2, 1> for Silu {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe { [S::mul(S::mul(gate, S::sigmoid(gate)), up)] }
    }
}

impl Pointwise<3, 2> for Silu {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the caller's contract.
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
    /// `tanh(sqrt(2/pi) * (x + 0.044715 x³))`
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe {
            let cube = S::mul(S::mul(S::mul(S::splat(GELU_CUBIC), x), x), x);
            S::tanh(S::mul(S::splat(GELU_SCALE), S::add(x, cube)))
        }
    }
}

impl Pointwise<2, 1> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe {
            let half = S::mul(S::splat(0.5), gate);
            [S::mul(S::mul(half, S::add(S::splat(1.0), Self::tanh::<S>(gate))), up)]
        }
    }
}

impl Pointwise<3, 2> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (half, one) = (S::splat(0.5), S::splat(1.0));
            let tanh = Self::tanh::<S>(gate);
            let share = S::mul(half, S::add(one, tanh));
            let cubic = S::mul(S::splat(3.0 * GELU_CUBIC), S::mul(gate, gate));
            let slope = S::mul(S::splat(GELU_SCALE), S::add(one, cubic));
            // (1 - tanh)(1 + tanh): 1 - tanh² would lose the digits of 1 - tanh
            let bend = S::mul(S::mul(half, gate), S::mul(S::sub(one, tanh), S::add(one, tanh)));
            let derivative = S::fma(bend, slope, share);
            [S::mul(S::mul(dy, up), derivative), S::mul(dy, S::mul(gate, share))]
        }
    }
}
