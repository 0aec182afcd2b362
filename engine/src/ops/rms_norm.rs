//! Root-mean-square norm, of whole rows or of each head.

use crate::autograd::{Backward, Grads, Input, Saved, Tape, Var};
use crate::weights::FrozenVector;
use align_kernels::{Buffer, Result, rms_norm};

/// `y = rms_norm(x) * (offset + weight)`, over groups of `weight.len()` columns: whole rows, or heads where the weight is as long
/// as a head. Saves `rstd` (4 bytes a group) and keeps `x`; no gradient for `weight`, it is frozen.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn rms_norm(tape: &mut Tape, x: &Var, weight: &FrozenVector, eps: f32, offset: f32) -> Result<Var> {
    let cols = weight.len();
    let groups_per_row = x.cols() / cols;
    let rows = x.rows() * groups_per_row;
    let mut y = tape.alloc("rms_norm.y", rows * cols)?;
    let mut rstd = tape.alloc("rms_norm.rstd", rows)?;
    rms_norm::Forward {
        rows,
        cols,
        eps,
        offset,
        x: x.view(),
        weight: weight.view(),
        y: y.view_mut(),
        rstd: rstd.view_mut(),
    }
    .run(tape.device())?;
    tape.push([x.rows(), x.cols()], x.grad_rows(), y, |tape| {
        let rows = x.grad_rows() * groups_per_row;
        let rstd = tape.save(rstd, rows)?;
        Ok(RmsNorm { rows, offset, input: x.input(), x: tape.keep(x)?, rstd, weight: weight.clone() })
    })
}

struct RmsNorm {
    rows: usize,
    offset: f32,
    input: Input,
    x: Saved,
    rstd: Saved,
    weight: FrozenVector,
}

impl Backward for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    // dx += rstd * (w∘dy - x * rstd² * mean(w∘dy∘x))
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        rms_norm::Backward {
            rows: self.rows,
            cols: self.weight.len(),
            offset: self.offset,
            x: self.x.view(),
            weight: self.weight.view(),
            rstd: self.rstd.view(),
            dy: dy.view(),
            dx: grads.sum(self.input)?,
        }
        .run(&device)
    }
}
