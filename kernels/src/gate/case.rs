//! Shapes: the MLP of SmolLM2-135M, timed; lengths around the vectors, for the tests.

use super::{Activation, Backward, Forward, reference};
use crate::case::operands::{Kernel, Label, Operands, unset};
use crate::case::{Case, Inputs};
use crate::real::Real;
use crate::{Device, Result, Slice, SliceMut};

#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardShape {
    pub len: usize,
    pub activation: Activation,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BackwardShape {
    pub len: usize,
    pub activation: Activation,
}

pub fn cases() -> Vec<Case> {
    let timed = [1024 * 1536].map(|len| (len, true));
    let odd = [0, 1, 15, 16, 31, 33, 1023, 40_000].map(|len| (len, false));
    let mut cases = Vec::new();
    for (len, timed) in timed.into_iter().chain(odd) {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let label = |kernel, flops, passes| Label {
                kernel,
                shape: format!("[{len}] {activation:?}"),
                flops: flops * len as f64,
                bytes: passes * 4.0 * len as f64,
                timed,
            };
            cases.push(label("gate.forward", 16.0, 3.0).case(ForwardShape { len, activation }));
            cases.push(label("gate.backward", 22.0, 5.0).case(BackwardShape { len, activation }));
        }
    }
    cases
}

/// From -12 to 12, where both activations are saturated.
fn gate(inputs: &mut Inputs, len: usize) -> Vec<f32> {
    (0..len).map(|_| (24.0 * inputs.unit() - 12.0) as f32).collect()
}

impl Kernel<0, 2, 1> for ForwardShape {
    const OUTPUTS: [&'static str; 1] = ["y"];
    const FUNCTION_ULPS: f64 = 3.0; // sigmoid

    fn operands(&self) -> Operands<0, 2, 1> {
        let mut inputs = Inputs::of(&[self.len]);
        Operands { ids: [], x: [gate(&mut inputs, self.len), inputs.normal(self.len, 1.0)], y: [unset(self.len)] }
    }

    fn call(
        &self,
        device: &Device,
        _: [Slice<'_, u32>; 0],
        [gate, up]: [Slice<'_, f32>; 2],
        [y]: [SliceMut<'_, f32>; 1],
    ) -> Result<()> {
        Forward { len: self.len, activation: self.activation, gate, up, y }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [gate, up]: [&[R]; 2], _: [Vec<R>; 1]) -> [Vec<R>; 1] {
        [reference::forward(self.activation, gate, up)]
    }
}

impl Kernel<0, 3, 2> for BackwardShape {
    const OUTPUTS: [&'static str; 2] = ["d_gate", "d_up"];
    const FUNCTION_ULPS: f64 = 3.0; // sigmoid

    fn operands(&self) -> Operands<0, 3, 2> {
        let mut inputs = Inputs::of(&[self.len]);
        let x = [gate(&mut inputs, self.len), inputs.normal(self.len, 1.0), inputs.normal(self.len, 1.0)];
        Operands { ids: [], x, y: [unset(self.len), unset(self.len)] }
    }

    fn call(
        &self,
        device: &Device,
        _: [Slice<'_, u32>; 0],
        [gate, up, dy]: [Slice<'_, f32>; 3],
        [d_gate, d_up]: [SliceMut<'_, f32>; 2],
    ) -> Result<()> {
        Backward { len: self.len, activation: self.activation, gate, up, dy, d_gate, d_up }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [gate, up, dy]: [&[R]; 3], _: [Vec<R>; 2]) -> [Vec<R>; 2] {
        let (d_gate, d_up) = reference::backward(self.activation, gate, up, dy);
        [d_gate, d_up]
    }
}
