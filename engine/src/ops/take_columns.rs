//! One part of a fused projection.

use crate::autograd::{Backward, Grads, Input, Tape, Var};
use align_kernels::{Buffer, Result, rows};
use std::ops::Range;

/// Columns `columns` of `x`. Saves nothing.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn take_columns(tape: &mut Tape, x: &Var, columns: Range<usize>) -> Result<Var> {
    let mut y = tape.alloc("take_columns.y", x.rows() * columns.len())?;
    rows::TakeColumns {
        rows: x.rows(),
        x_cols: x.cols(),
        first_col: columns.start,
        y_cols: columns.len(),
        x: x.view(),
        y: y.view_mut(),
    }
    .run(tape.device())?;
    let input = x.input();
    tape.push([x.rows(), columns.len()], x.grad_rows(), y, |_| Ok(TakeColumns { input, columns }))
}

struct TakeColumns {
    input: Input,
    columns: Range<usize>,
}

impl Backward for TakeColumns {
    fn name(&self) -> &'static str {
        "take_columns"
    }

    // dx[:, columns] += dy
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        rows::AddColumns {
            rows: self.input.grad_rows,
            y_cols: self.input.cols,
            first_col: self.columns.start,
            x_cols: self.columns.len(),
            x: dy.view(),
            y: grads.sum(self.input)?,
        }
        .run(&device)
    }
}
