//! Gated activation of the MLP.

use crate::autograd::{Backward, Grads, Input, Recompute, Saved, Tape, Var};
use align_kernels::gate::{self, Activation};
use align_kernels::{Device, FloatBuffer, Result};
use std::rc::Rc;

/// Computes `act(gate) * up`. `gate_up` holds gate and up side by side. Keeps `gate_up`. The result need not be kept, because it
/// can be recomputed from `gate_up`.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn gate(tape: &mut Tape, activation: Activation, gate_up: &Var) -> Result<Var> {
    let (rows, cols) = (gate_up.rows(), gate_up.cols() / 2);
    let mut y = tape.alloc_float("gate.y", rows * cols)?;
    gate::Forward { rows, cols, activation, gate_up: gate_up.view(), y: y.view_mut() }.run(tape.device())?;
    tape.push_recomputable([rows, cols], gate_up.grad_rows(), y, |tape| {
        let gate = Gate { activation, input: gate_up.input(), gate_up: tape.keep(gate_up)? };
        Ok((gate.clone(), Rc::new(gate)))
    })
}

#[derive(Debug, Clone)]
struct Gate {
    activation: Activation,
    input: Input,
    gate_up: Saved,
}

impl Recompute for Gate {
    fn recompute(&self, device: &Device) -> Result<FloatBuffer> {
        let Input { grad_rows: rows, cols, dtype, .. } = self.input;
        let cols = cols / 2;
        let mut y = device.alloc_float("gate.y", dtype, rows * cols)?;
        let (gate_up, activation) = (self.gate_up.view(), self.activation);
        gate::Forward { rows, cols, activation, gate_up, y: y.view_mut() }.run(device)?;
        Ok(y)
    }
}

impl Backward for Gate {
    // d_gate += dy * up * act'(gate), d_up += dy * act(gate)
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device();
        let mut d_gate_up = device.alloc_float("gate.d_gate_up", self.input.dtype, self.input.len())?;
        gate::Backward {
            rows: self.input.grad_rows,
            cols: self.input.cols / 2,
            activation: self.activation,
            gate_up: self.gate_up.view(),
            dy: dy.view(),
            d_gate_up: d_gate_up.view_mut(),
        }
        .run(device)?;
        grads.give(self.input, d_gate_up)
    }
}
