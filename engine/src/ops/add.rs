//! The residual connection after a norm. If an output has no norm, the linear layer that computes it adds the residual itself.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use align_kernels::gemm::Accumulate;
use align_kernels::{FloatBuffer, Result, add};

/// Computes `x + delta`, in the format of `x`. Saves nothing for the backward pass.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn add(tape: &mut Tape, x: &Var, delta: &Var) -> Result<Var> {
    let shape = [x.rows(), x.cols()];
    let device = tape.device().clone();
    let mut y = device.alloc_float("add.y", x.view().dtype(), x.view().len())?;
    device.copy_float(x.view(), y.view_mut())?;
    add::Add { len: y.len(), x: delta.view(), y: y.view_mut() }.run(&device)?;
    tape.push(shape, x.grad_rows(), y, |_| Ok(Add { x: x.input(), delta: delta.input() }))
}

struct Add {
    x: Input,
    delta: Input,
}

impl Backward for Add {
    // dx += dy, d_delta += dy
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let (d_delta, accumulate) = grads.slot(self.delta)?;
        match accumulate {
            Accumulate::Set => device.copy_float(dy.view(), d_delta)?,
            Accumulate::Add => add::Add { len: dy.len(), x: dy.view(), y: d_delta }.run(&device)?,
        }
        grads.give(self.x, dy)
    }
}
