//! Residual connection.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use align_kernels::{Buffer, Result, add};

/// `x + delta`, in the place of `delta` where nothing else holds it. Saves nothing.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn add(tape: &mut Tape, x: &Var, delta: Var) -> Result<Var> {
    let shape = [x.rows(), x.cols()];
    let node = Add { x: x.input(), delta: delta.input() };
    let mut y = tape.take("add.y", delta)?;
    add::Add { len: y.len(), x: x.view(), y: y.view_mut() }.run(tape.device())?;
    tape.push(shape, x.grad_rows(), y, |_| Ok(node))
}

struct Add {
    x: Input,
    delta: Input,
}

impl Backward for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    // dx += dy, d_delta += dy
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let (dx, accumulate) = grads.slot(self.x)?;
        match accumulate {
            align_kernels::gemm::Accumulate::Set => device.copy(dy.view(), dx),
            align_kernels::gemm::Accumulate::Add => {
                add::Add { len: dy.len(), x: dy.view(), y: dx }.run(&device)?;
            }
        }
        grads.give(self.delta, dy)
    }
}
