//! Rotary position encoding.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use crate::pass::RopeTable;
use align_kernels::rope::{Direction, Rotate};
use align_kernels::{Device, FloatBuffer, Result};
use std::rc::Rc;

/// Rotates the first `heads` heads of each row of `x` by the row's angles. Works in place if nothing else holds `x`. The columns
/// after those heads are unchanged. Saves nothing: the backward pass uses the first rows of the same table, since the rows with a
/// gradient come first.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn rope(tape: &mut Tape, x: Var, [heads, head_dim]: [usize; 2], table: &Rc<RopeTable>) -> Result<Var> {
    let [rows, cols] = [x.rows(), x.cols()];
    let (input, grad_rows) = (x.input(), x.grad_rows());
    let mut y = tape.take("rope.y", x)?;
    let node = Rope { input, heads, head_dim, table: table.clone() };
    node.rotate(tape.device(), rows, Direction::Forward, &mut y)?;
    tape.push([rows, cols], grad_rows, y, |_| Ok(node))
}

struct Rope {
    input: Input,
    heads: usize,
    head_dim: usize,
    table: Rc<RopeTable>,
}

impl Rope {
    fn rotate(&self, device: &Device, rows: usize, direction: Direction, x: &mut FloatBuffer) -> Result<()> {
        let rotary_dim = self.table.rotary_dim;
        let used = rows * rotary_dim / 2;
        Rotate {
            rows,
            heads: self.heads,
            head_dim: self.head_dim,
            rotary_dim,
            direction,
            cos: self.table.cos.view().range(0..used),
            sin: self.table.sin.view().range(0..used),
            stride: self.input.cols,
            x: x.view_mut(),
        }
        .run(device)
    }
}

impl Backward for Rope {
    // dx += Rᵀ dy: the rotation by the negative angle
    fn backward(&self, mut dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        self.rotate(grads.device(), self.input.grad_rows, Direction::Backward, &mut dy)?;
        grads.give(self.input, dy)
    }
}
