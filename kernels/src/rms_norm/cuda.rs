//! CUDA version: a warp for each row.

use super::{Backward, Forward, Groups};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::gemm::Accumulate;
use crate::{FloatSlice, FloatSliceMut, Result};
use half::bf16;

/// Where the rows of the norm are, in the layout that the CUDA kernels expect.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rows {
    rows: u64,
    stride: u64,
    first: u32,
    per_row: u32,
    cols: u32,
}

impl Rows {
    fn new(rows: usize, cols: usize, groups: Groups) -> Rows {
        let Groups { first, per_row, stride } = groups;
        Rows {
            rows: rows as u64,
            stride: stride as u64,
            first: first as u32,
            per_row: per_row as u32,
            cols: cols as u32,
        }
    }

    /// Returns a grid with a warp for each row. A block has four warps.
    fn grid(self) -> Grid {
        Grid::rows((self.rows as usize).div_ceil(4))
    }
}

#[repr(C)]
struct ForwardArgs<Y, X> {
    y: PtrMut<Y>,
    rstd: PtrMut<f32>,
    x: Ptr<X>,
    weight: Ptr<f32>,
    of: Rows,
    eps: f32,
    offset: f32,
}

#[repr(C)]
struct BackwardArgs<Y, X> {
    dx: PtrMut<X>,
    x: Ptr<X>,
    weight: Ptr<f32>,
    rstd: Ptr<f32>,
    dy: Ptr<Y>,
    of: Rows,
    offset: f32,
    add: u32,
}

const FORWARD_F32_F32: Entry<ForwardArgs<f32, f32>> = Entry::new(Module::RmsNorm, c"rms_norm_forward_f32_f32", 128);
const FORWARD_BF16_F32: Entry<ForwardArgs<bf16, f32>> = Entry::new(Module::RmsNorm, c"rms_norm_forward_bf16_f32", 128);
const FORWARD_BF16_BF16: Entry<ForwardArgs<bf16, bf16>> =
    Entry::new(Module::RmsNorm, c"rms_norm_forward_bf16_bf16", 128);
const BACKWARD_F32_F32: Entry<BackwardArgs<f32, f32>> = Entry::new(Module::RmsNorm, c"rms_norm_backward_f32_f32", 128);
const BACKWARD_BF16_F32: Entry<BackwardArgs<bf16, f32>> =
    Entry::new(Module::RmsNorm, c"rms_norm_backward_bf16_f32", 128);
const BACKWARD_BF16_BF16: Entry<BackwardArgs<bf16, bf16>> =
    Entry::new(Module::RmsNorm, c"rms_norm_backward_bf16_bf16", 128);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![
        FORWARD_F32_F32.any(),
        FORWARD_BF16_F32.any(),
        FORWARD_BF16_BF16.any(),
        BACKWARD_F32_F32.any(),
        BACKWARD_BF16_F32.any(),
        BACKWARD_BF16_BF16.any(),
    ]
}

pub(super) fn forward(cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    let of = Rows::new(call.rows, call.cols, call.groups);
    let (rstd, weight, eps, offset) = (call.rstd.cuda(), call.weight.cuda(), call.eps, call.offset);
    match (call.y, call.x) {
        (FloatSliceMut::F32(y), FloatSlice::F32(x)) => {
            let (y, x) = (y.cuda(), x.cuda());
            cuda.launch(&FORWARD_F32_F32, of.grid(), ForwardArgs { y, rstd, x, weight, of, eps, offset })
        }
        (FloatSliceMut::Bf16(y), FloatSlice::F32(x)) => {
            let (y, x) = (y.cuda(), x.cuda());
            cuda.launch(&FORWARD_BF16_F32, of.grid(), ForwardArgs { y, rstd, x, weight, of, eps, offset })
        }
        (FloatSliceMut::Bf16(y), FloatSlice::Bf16(x)) => {
            let (y, x) = (y.cuda(), x.cuda());
            cuda.launch(&FORWARD_BF16_BF16, of.grid(), ForwardArgs { y, rstd, x, weight, of, eps, offset })
        }
        (FloatSliceMut::F32(_), FloatSlice::Bf16(_)) => unreachable!("`run` refuses a wider output"),
    }
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    let of = Rows::new(call.rows, call.cols, call.groups);
    let (weight, rstd, offset) = (call.weight.cuda(), call.rstd.cuda(), call.offset);
    let add = u32::from(call.accumulate == Accumulate::Add);
    match (call.dy, call.x, call.dx) {
        (FloatSlice::F32(dy), FloatSlice::F32(x), FloatSliceMut::F32(dx)) => {
            let (dy, x, dx) = (dy.cuda(), x.cuda(), dx.cuda());
            cuda.launch(&BACKWARD_F32_F32, of.grid(), BackwardArgs { dx, x, weight, rstd, dy, of, offset, add })
        }
        (FloatSlice::Bf16(dy), FloatSlice::F32(x), FloatSliceMut::F32(dx)) => {
            let (dy, x, dx) = (dy.cuda(), x.cuda(), dx.cuda());
            cuda.launch(&BACKWARD_BF16_F32, of.grid(), BackwardArgs { dx, x, weight, rstd, dy, of, offset, add })
        }
        (FloatSlice::Bf16(dy), FloatSlice::Bf16(x), FloatSliceMut::Bf16(dx)) => {
            let (dy, x, dx) = (dy.cuda(), x.cuda(), dx.cuda());
            cuda.launch(&BACKWARD_BF16_BF16, of.grid(), BackwardArgs { dx, x, weight, rstd, dy, of, offset, add })
        }
        _ => unreachable!("`run` refuses other formats"),
    }
}
