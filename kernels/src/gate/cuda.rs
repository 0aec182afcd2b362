//! CUDA version.

use super::{Activation, Backward, Forward};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{FloatSlice, FloatSliceMut, Result};
use half::bf16;

#[repr(C)]
struct ForwardArgs<T> {
    y: PtrMut<T>,
    gate_up: Ptr<T>,
    len: u64,
    cols: u64,
}

#[repr(C)]
struct BackwardArgs<T> {
    d_gate_up: PtrMut<T>,
    gate_up: Ptr<T>,
    dy: Ptr<T>,
    len: u64,
    cols: u64,
}

const FORWARD_SILU_F32: Entry<ForwardArgs<f32>> = Entry::new(Module::Gate, c"gate_forward_silu_f32", 256);
const FORWARD_SILU_BF16: Entry<ForwardArgs<bf16>> = Entry::new(Module::Gate, c"gate_forward_silu_bf16", 256);
const FORWARD_GELU_F32: Entry<ForwardArgs<f32>> = Entry::new(Module::Gate, c"gate_forward_gelu_f32", 256);
const FORWARD_GELU_BF16: Entry<ForwardArgs<bf16>> = Entry::new(Module::Gate, c"gate_forward_gelu_bf16", 256);
const BACKWARD_SILU_F32: Entry<BackwardArgs<f32>> = Entry::new(Module::Gate, c"gate_backward_silu_f32", 256);
const BACKWARD_SILU_BF16: Entry<BackwardArgs<bf16>> = Entry::new(Module::Gate, c"gate_backward_silu_bf16", 256);
const BACKWARD_GELU_F32: Entry<BackwardArgs<f32>> = Entry::new(Module::Gate, c"gate_backward_gelu_f32", 256);
const BACKWARD_GELU_BF16: Entry<BackwardArgs<bf16>> = Entry::new(Module::Gate, c"gate_backward_gelu_bf16", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![
        FORWARD_SILU_F32.any(),
        FORWARD_SILU_BF16.any(),
        FORWARD_GELU_F32.any(),
        FORWARD_GELU_BF16.any(),
        BACKWARD_SILU_F32.any(),
        BACKWARD_SILU_BF16.any(),
        BACKWARD_GELU_F32.any(),
        BACKWARD_GELU_BF16.any(),
    ]
}

pub(super) fn forward(cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    let Forward { rows, cols, activation, gate_up, y } = call;
    let (grid, len, cols) = (Grid::elements(rows * cols, 256), (rows * cols) as u64, cols as u64);
    match (gate_up, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => {
            let entry = of(activation, &FORWARD_SILU_F32, &FORWARD_GELU_F32);
            cuda.launch(entry, grid, ForwardArgs { y: y.cuda(), gate_up: x.cuda(), len, cols })
        }
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => {
            let entry = of(activation, &FORWARD_SILU_BF16, &FORWARD_GELU_BF16);
            cuda.launch(entry, grid, ForwardArgs { y: y.cuda(), gate_up: x.cuda(), len, cols })
        }
        _ => unreachable!("`run` checked the formats"),
    }
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    let Backward { rows, cols, activation, gate_up, dy, d_gate_up } = call;
    let (grid, len, cols) = (Grid::elements(rows * cols, 256), (rows * cols) as u64, cols as u64);
    match (gate_up, dy, d_gate_up) {
        (FloatSlice::F32(x), FloatSlice::F32(dy), FloatSliceMut::F32(dx)) => {
            let entry = of(activation, &BACKWARD_SILU_F32, &BACKWARD_GELU_F32);
            cuda.launch(entry, grid, BackwardArgs { d_gate_up: dx.cuda(), gate_up: x.cuda(), dy: dy.cuda(), len, cols })
        }
        (FloatSlice::Bf16(x), FloatSlice::Bf16(dy), FloatSliceMut::Bf16(dx)) => {
            let entry = of(activation, &BACKWARD_SILU_BF16, &BACKWARD_GELU_BF16);
            cuda.launch(entry, grid, BackwardArgs { d_gate_up: dx.cuda(), gate_up: x.cuda(), dy: dy.cuda(), len, cols })
        }
        _ => unreachable!("`run` checked the formats"),
    }
}

/// Returns the kernel of an activation.
fn of<A>(activation: Activation, silu: &'static Entry<A>, gelu: &'static Entry<A>) -> &'static Entry<A> {
    match activation {
        Activation::Silu => silu,
        Activation::GeluTanh => gelu,
    }
}
