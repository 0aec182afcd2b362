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
    /// `2 sqrt(2/pi) (x + 0.044715 x³)`, called z: `0.5 (1 + tanh(z/2))` is `sigmoid(z)`, which does not cancel. Cut at -80, where
    /// the sigmoid is 2e-35: beyond, it would be a subnormal number, a hundred times slower to multiply.
    ///
    /// # Safety
    /// As [`Simd`].
    #[inline(always)]
    unsafe fn z<S: Simd>(x: S::V) -> S::V {
        // SAFETY: the caller's contract.
        unsafe {
            let cube = S::mul(S::mul(S::mul(S::splat(GELU_CUBIC), x), x), x);
            // z stands second, so NaN stays
            S::max(S::splat(-80.0), S::mul(S::splat(2.0 * GELU_SCALE), S::add(x, cube)))
        }
    }
}

impl Pointwise<2, 1> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe { [S::mul(S::mul(gate, S::sigmoid(Self::z::<S>(gate))), up)] }
    }
}

impl Pointwise<3, 2> for GeluTanh {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [gate, up, dy]: [S::V; 3], _: [S::V; 2]) -> [S::V; 2] {
        // SAFETY: the caller's contract.
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
