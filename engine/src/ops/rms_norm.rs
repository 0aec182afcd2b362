//! Root-mean-square norm of whole rows.

use crate::autograd::{Backward, Grads, Input, Recompute, Saved, SavedF32, Tape, Var};
use crate::weights::FrozenVector;
use align_kernels::rms_norm::{self, Groups};
use align_kernels::{Device, FloatBuffer, FloatDtype, Result};
use std::rc::Rc;

/// Computes `rms_norm(x) * (offset + weight)`, in the precision of the pass. Saves `rstd` (4 bytes a row) and keeps `x`. The
/// result need not be kept, because it can be recomputed from `x`. `weight` is frozen and has no gradient.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn rms_norm(tape: &mut Tape, x: &Var, weight: &FrozenVector, eps: f32, offset: f32) -> Result<Var> {
    let (rows, cols) = (x.rows(), x.cols());
    let groups = Groups::rows(cols);
    let mut y = tape.alloc_float("rms_norm.y", rows * cols)?;
    let mut rstd = tape.alloc("rms_norm.rstd", rows)?;
    let (y_view, rstd_view) = (y.view_mut(), rstd.view_mut());
    let weight_view = weight.view();
    rms_norm::Forward { rows, cols, groups, eps, offset, x: x.view(), weight: weight_view, y: y_view, rstd: rstd_view }
        .run(tape.device())?;
    let dtype = y.dtype();
    tape.push_recomputable([rows, cols], x.grad_rows(), y, |tape| {
        let rstd = Rc::new(tape.save(rstd, x.grad_rows())?);
        let (x, input) = (tape.keep(x)?, x.input());
        let norm = RmsNorm { eps, offset, input, dtype, x, rstd, weight: weight.clone() };
        Ok((norm.clone(), Rc::new(norm)))
    })
}

#[derive(Debug, Clone)]
struct RmsNorm {
    eps: f32,
    offset: f32,
    input: Input,
    /// The format of the result.
    dtype: FloatDtype,
    x: Saved,
    rstd: Rc<SavedF32>,
    weight: FrozenVector,
}

impl Recompute for RmsNorm {
    fn recompute(&self, device: &Device) -> Result<FloatBuffer> {
        let RmsNorm { eps, offset, input: Input { grad_rows: rows, cols, .. }, dtype, .. } = *self;
        let mut y = device.alloc_float("rms_norm.y", dtype, rows * cols)?;
        let mut rstd = device.alloc("rms_norm.rstd", rows)?;
        let (x, weight, y_view, groups) = (self.x.view(), self.weight.view(), y.view_mut(), Groups::rows(cols));
        rms_norm::Forward { rows, cols, groups, eps, offset, x, weight, y: y_view, rstd: rstd.view_mut() }
            .run(device)?;
        Ok(y)
    }
}

impl Backward for RmsNorm {
    // dx += rstd * (w∘dy - x * rstd² * mean(w∘dy∘x))
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let (dx, accumulate) = grads.slot(self.input)?;
        rms_norm::Backward {
            rows: self.input.grad_rows,
            cols: self.input.cols,
            groups: Groups::rows(self.input.cols),
            offset: self.offset,
            x: self.x.view(),
            weight: self.weight.view(),
            rstd: self.rstd.view(),
            dy: dy.view(),
            dx,
            accumulate,
        }
        .run(&device)
    }
}
