//! Shapes: the MLP of SmolLM2-135M, timed. For the tests, lengths near whole vectors.

use super::{Activation, Backward, Forward, reference};
use crate::case::operands::{Kernel, Label, Operands, Views, unset};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardShape {
    pub rows: usize,
    pub cols: usize,
    pub activation: Activation,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BackwardShape {
    pub rows: usize,
    pub cols: usize,
    pub activation: Activation,
}

pub(crate) fn cases() -> Vec<Case> {
    let timed = [[1024, 1536]];
    let odd = [[0, 3], [1, 1], [3, 15], [2, 16], [5, 33], [7, 1023], [1, 40_000], [301, 129]];
    let mut cases = Vec::new();
    for ([rows, cols], timed) in shapes(timed, odd) {
        let len = rows * cols;
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let label = |kernel, flops, passes| Label {
                kernel,
                shape: format!("[{rows}, {cols}] {activation:?}"),
                flops: flops * len as f64,
                bytes: passes * 4.0 * len as f64,
                timed,
            };
            cases.push(label("gate.forward", 16.0, 3.0).case(ForwardShape { rows, cols, activation }));
            cases.push(label("gate.backward", 22.0, 5.0).case(BackwardShape { rows, cols, activation }));
        }
    }
    cases
}

/// Returns rows of gates from -12 to 12, where both activations are saturated. After its gates, each row holds the values that
/// they gate.
fn gate_up(inputs: &mut Inputs, rows: usize, cols: usize) -> Vec<f32> {
    let mut values = Vec::new();
    for _ in 0..rows {
        values.extend((0..cols).map(|_| (24.0 * inputs.unit() - 12.0) as f32));
        values.extend(inputs.normal(cols, 1.0));
    }
    values
}

/// Returns the gates of all rows, and the values that they gate.
fn split<R: Real>(gate_up: &[R], cols: usize) -> [Vec<R>; 2] {
    let rows = || gate_up.chunks(2 * cols);
    [rows().flat_map(|row| row[..cols].to_vec()).collect(), rows().flat_map(|row| row[cols..].to_vec()).collect()]
}

impl Kernel<0, 1, 1> for ForwardShape {
    const OUTPUTS: [&'static str; 1] = ["y"];
    const FUNCTION_ULPS: f64 = 2.0; // sigmoid

    fn operands(&self) -> Operands<0, 1, 1> {
        let ForwardShape { rows, cols, .. } = *self;
        let mut inputs = Inputs::of(&[rows, cols]);
        Operands { ids: [], x: [gate_up(&mut inputs, rows, cols)], y: [unset(rows * cols)] }
    }

    fn call(&self, device: &Device, Views { x: [gate_up], y: [y], .. }: Views<'_, 0, 1, 1>) -> Result<()> {
        let ForwardShape { rows, cols, activation } = *self;
        Forward { rows, cols, activation, gate_up: gate_up.into(), y: y.into() }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [gate_up]: [&[R]; 1], _: [Vec<R>; 1]) -> [Vec<R>; 1] {
        let [gate, up] = split(gate_up, self.cols);
        [reference::forward(self.activation, &gate, &up)]
    }
}

impl Kernel<0, 2, 1> for BackwardShape {
    const OUTPUTS: [&'static str; 1] = ["d_gate_up"];
    const FUNCTION_ULPS: f64 = 2.0; // sigmoid

    fn operands(&self) -> Operands<0, 2, 1> {
        let BackwardShape { rows, cols, .. } = *self;
        let mut inputs = Inputs::of(&[rows, cols]);
        let x = [gate_up(&mut inputs, rows, cols), inputs.normal(rows * cols, 1.0)];
        Operands { ids: [], x, y: [unset(2 * rows * cols)] }
    }

    fn call(&self, device: &Device, Views { x: [gate_up, dy], y: [d_gate_up], .. }: Views<'_, 0, 2, 1>) -> Result<()> {
        let BackwardShape { rows, cols, activation } = *self;
        let (gate_up, dy, d_gate_up) = (gate_up.into(), dy.into(), d_gate_up.into());
        Backward { rows, cols, activation, gate_up, dy, d_gate_up }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [gate_up, dy]: [&[R]; 2], _: [Vec<R>; 1]) -> [Vec<R>; 1] {
        let [gate, up] = split(gate_up, self.cols);
        let (d_gate, d_up) = reference::backward(self.activation, &gate, &up, dy);
        let rows = d_gate.chunks(self.cols).zip(d_up.chunks(self.cols));
        [rows.flat_map(|(d_gate, d_up)| [d_gate, d_up].concat()).collect()]
    }
}
