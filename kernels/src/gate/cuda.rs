//! CUDA version.

use super::{Activation, Backward, Forward};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::formats::Float;
use crate::{FloatDtype, Result};
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

/// The kernels of an activation for one float format.
struct Kernels<T> {
    forward: Entry<ForwardArgs<T>>,
    backward: Entry<BackwardArgs<T>>,
}

const SILU_F32: Kernels<f32> = Kernels {
    forward: Entry::new(Module::Gate, c"gate_forward_silu_f32", 256),
    backward: Entry::new(Module::Gate, c"gate_backward_silu_f32", 256),
};

const SILU_BF16: Kernels<bf16> = Kernels {
    forward: Entry::new(Module::Gate, c"gate_forward_silu_bf16", 256),
    backward: Entry::new(Module::Gate, c"gate_backward_silu_bf16", 256),
};

const GELU_F32: Kernels<f32> = Kernels {
    forward: Entry::new(Module::Gate, c"gate_forward_gelu_f32", 256),
    backward: Entry::new(Module::Gate, c"gate_backward_gelu_f32", 256),
};

const GELU_BF16: Kernels<bf16> = Kernels {
    forward: Entry::new(Module::Gate, c"gate_forward_gelu_bf16", 256),
    backward: Entry::new(Module::Gate, c"gate_backward_gelu_bf16", 256),
};

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    [SILU_F32.any(), SILU_BF16.any(), GELU_F32.any(), GELU_BF16.any()].concat()
}

#[cfg(test)]
impl<T> Kernels<T> {
    fn any(&self) -> [crate::cuda::AnyEntry; 2] {
        [self.forward.any(), self.backward.any()]
    }
}

pub(super) fn forward(cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    match (call.activation, call.gate_up.dtype()) {
        (Activation::Silu, FloatDtype::F32) => SILU_F32.forward(cuda, call),
        (Activation::Silu, FloatDtype::Bf16) => SILU_BF16.forward(cuda, call),
        (Activation::GeluTanh, FloatDtype::F32) => GELU_F32.forward(cuda, call),
        (Activation::GeluTanh, FloatDtype::Bf16) => GELU_BF16.forward(cuda, call),
    }
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    match (call.activation, call.gate_up.dtype()) {
        (Activation::Silu, FloatDtype::F32) => SILU_F32.backward(cuda, call),
        (Activation::Silu, FloatDtype::Bf16) => SILU_BF16.backward(cuda, call),
        (Activation::GeluTanh, FloatDtype::F32) => GELU_F32.backward(cuda, call),
        (Activation::GeluTanh, FloatDtype::Bf16) => GELU_BF16.backward(cuda, call),
    }
}

impl<T: Float> Kernels<T> {
    fn forward(&self, cuda: &Cuda, call: Forward<'_>) -> Result<()> {
        let (len, cols) = (call.rows * call.cols, call.cols as u64);
        let args = ForwardArgs { y: call.y.cuda(), gate_up: call.gate_up.cuda(), len: len as u64, cols };
        cuda.launch(&self.forward, Grid::elements(len, self.forward.threads), args)
    }

    fn backward(&self, cuda: &Cuda, call: Backward<'_>) -> Result<()> {
        let (len, cols) = (call.rows * call.cols, call.cols as u64);
        let (d_gate_up, gate_up, dy) = (call.d_gate_up.cuda(), call.gate_up.cuda(), call.dy.cuda());
        let args = BackwardArgs { d_gate_up, gate_up, dy, len: len as u64, cols };
        cuda.launch(&self.backward, Grid::elements(len, self.backward.threads), args)
    }
}
