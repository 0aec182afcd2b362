//! Rotary position encoding.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use crate::rows::RopeTable;
use align_kernels::rope::{Direction, Rotate};
use align_kernels::{Buffer, Result};
use std::rc::Rc;

/// Rotates every head of `x` by its row's angles, in the place of `x` where nothing else holds it. Saves nothing: the rows with
/// a gradient are the first rows of the table.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn rope(tape: &mut Tape, x: Var, head_dim: usize, table: &Rc<RopeTable>) -> Result<Var> {
    let [rows, cols] = [x.rows(), x.cols()];
    let (input, grad_rows) = (x.input(), x.grad_rows());
    let mut y = tape.take("rope.y", x)?;
    rotate(tape.device(), rows, cols, head_dim, table, Direction::Forward, &mut y)?;
    tape.push([rows, cols], grad_rows, y, |_| Ok(Rope { input, head_dim, table: table.clone() }))
}

fn rotate(
    device: &align_kernels::Device,
    rows: usize,
    cols: usize,
    head_dim: usize,
    table: &RopeTable,
    direction: Direction,
    x: &mut Buffer<f32>,
) -> Result<()> {
    let used = rows * table.rotary_dim / 2;
    Rotate {
        rows,
        heads: cols / head_dim,
        head_dim,
        rotary_dim: table.rotary_dim,
        direction,
        cos: table.cos.view().range(0..used),
        sin: table.sin.view().range(0..used),
        x: x.view_mut(),
    }
    .run(device)
}

struct Rope {
    input: Input,
    head_dim: usize,
    table: Rc<RopeTable>,
}

impl Backward for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    // dx += Rᵀ dy: the rotation by the negative angle
    fn backward(&self, mut dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let Input { grad_rows, cols, .. } = self.input;
        rotate(grads.device(), grad_rows, cols, self.head_dim, &self.table, Direction::Backward, &mut dy)?;
        grads.give(self.input, dy)
    }
}
