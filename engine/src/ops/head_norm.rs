//! Root-mean-square norm of each query and key head.

use crate::autograd::{Backward, Grads, Input, Saved, SavedF32, Tape, Var};
use crate::weights::FrozenVector;
use align_kernels::attention::Geometry;
use align_kernels::gemm::Accumulate;
use align_kernels::rms_norm::{self, Groups};
use align_kernels::{FloatBuffer, Result};

/// Computes `rms_norm(head) * (offset + weight)` for every query head with `weights[0]`, and for every key head with
/// `weights[1]`. Copies the value heads unchanged. Saves `rstd` (4 bytes for each query and key head of a row) and keeps `qkv`.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn head_norm(
    tape: &mut Tape,
    geometry: Geometry,
    qkv: &Var,
    weights: &[FrozenVector; 2],
    eps: f32,
    offset: f32,
) -> Result<Var> {
    let (rows, cols) = (qkv.rows(), geometry.head_dim);
    let device = tape.device().clone();
    let mut y = tape.alloc_float("head_norm.y", qkv.view().len())?;
    device.copy_float(qkv.view(), y.view_mut())?;
    let mut all_rstd = Vec::with_capacity(2);
    for (groups, weight) in parts(geometry, qkv.cols()).into_iter().zip(weights) {
        let rows = rows * groups.per_row;
        let mut rstd = tape.alloc("head_norm.rstd", rows)?;
        let (x, y, weight, rstd_view) = (qkv.view(), y.view_mut(), weight.view(), rstd.view_mut());
        rms_norm::Forward { rows, cols, groups, eps, offset, x, weight, y, rstd: rstd_view }.run(&device)?;
        all_rstd.push((rstd, groups.per_row));
    }
    tape.push([rows, qkv.cols()], qkv.grad_rows(), y, |tape| {
        let saved = all_rstd.into_iter().map(|(rstd, per_row)| tape.save(rstd, qkv.grad_rows() * per_row));
        Ok(HeadNorm {
            geometry,
            offset,
            input: qkv.input(),
            qkv: tape.keep(qkv)?,
            rstd: saved.collect::<Result<_>>()?,
            weights: weights.clone(),
        })
    })
}

/// Returns the places of the query heads and of the key heads in rows of `stride` elements.
fn parts(geometry: Geometry, stride: usize) -> [Groups; 2] {
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = geometry;
    [Groups { first: 0, per_row: heads, stride }, Groups { first: heads * head_dim, per_row: kv_heads, stride }]
}

struct HeadNorm {
    geometry: Geometry,
    offset: f32,
    input: Input,
    qkv: Saved,
    rstd: Vec<SavedF32>,
    weights: [FrozenVector; 2],
}

impl Backward for HeadNorm {
    // as in rms_norm for queries and keys; the gradient of values passes through unchanged
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let mut dx = device.alloc_float("head_norm.dx", self.input.dtype, self.input.len())?;
        device.copy_float(dy.view(), dx.view_mut())?;
        let parts = parts(self.geometry, self.input.cols);
        for ((groups, weight), rstd) in parts.into_iter().zip(&self.weights).zip(&self.rstd) {
            rms_norm::Backward {
                rows: self.input.grad_rows * groups.per_row,
                cols: self.geometry.head_dim,
                groups,
                offset: self.offset,
                x: self.qkv.view(),
                weight: weight.view(),
                rstd: rstd.view(),
                dy: dy.view(),
                dx: dx.view_mut(),
                accumulate: Accumulate::Set,
            }
            .run(&device)?;
        }
        grads.give(self.input, dx)
    }
}
