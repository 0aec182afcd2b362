//! Selects the rows that are scored.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use align_kernels::{FloatBuffer, Indices, Result, rows};
use std::rc::Rc;

/// Returns `y`, `[index.len(), cols]`, with `y[i] = x[index[i]]`. `x` is the residual stream. The first `grad_rows` indices name
/// rows of `x` that have a gradient. An index may occur more than once, since the last token of a prompt predicts the first token
/// of every answer.
///
/// # Errors
/// [`align_kernels::KernelError::RowIndex`] for an index outside `x`.
pub fn gather_rows(tape: &mut Tape, x: &Var, index: &Rc<Indices>, grad_rows: usize) -> Result<Var> {
    let cols = x.cols();
    let mut y = tape.alloc("gather_rows.y", index.len() * cols)?;
    rows::Gather { cols, index: index.view(), x: x.view().expect_f32(), y: y.view_mut() }.run(tape.device())?;
    let input = x.input();
    tape.push([index.len(), cols], grad_rows, y, |_| Ok(GatherRows { input, grad_rows, index: index.clone() }))
}

struct GatherRows {
    input: Input,
    grad_rows: usize,
    index: Rc<Indices>,
}

impl Backward for GatherRows {
    // dx[index[i]] += dy[i]
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let index = self.index.view().range(0..self.grad_rows);
        rows::ScatterAdd { cols: self.input.cols, index, x: dy.view().expect_f32(), y: grads.sum(self.input)? }
            .run(&device)
    }
}
