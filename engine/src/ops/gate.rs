//! Gated activation of the MLP.

use crate::autograd::{Backward, Grads, Input, Saved, Tape, Var};
use align_kernels::gate::{self, Activation};
use align_kernels::{Buffer, Result};

/// `act(gate) * up`. Keeps both inputs.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn gate(tape: &mut Tape, activation: Activation, gate: &Var, up: &Var) -> Result<Var> {
    let len = gate.rows() * gate.cols();
    let mut y = tape.alloc("gate.y", len)?;
    gate::Forward { len, activation, gate: gate.view(), up: up.view(), y: y.view_mut() }.run(tape.device())?;
    tape.push([gate.rows(), gate.cols()], gate.grad_rows(), y, |tape| {
        let inputs = [gate.input(), up.input()];
        Ok(Gate { activation, inputs, gate: tape.keep(gate)?, up: tape.keep(up)? })
    })
}

struct Gate {
    activation: Activation,
    inputs: [Input; 2],
    gate: Saved,
    up: Saved,
}

impl Backward for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    // d_gate += dy * up * act'(gate), d_up += dy * act(gate)
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device();
        let mut d_gate = device.alloc("gate.d_gate", dy.len())?;
        let mut d_up = device.alloc("gate.d_up", dy.len())?;
        gate::Backward {
            len: dy.len(),
            activation: self.activation,
            gate: self.gate.view(),
            up: self.up.view(),
            dy: dy.view(),
            d_gate: d_gate.view_mut(),
            d_up: d_up.view_mut(),
        }
        .run(device)?;
        grads.give(self.inputs[0], d_gate)?;
        grads.give(self.inputs[1], d_up)
    }
}
