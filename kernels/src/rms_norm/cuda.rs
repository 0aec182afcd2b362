//! CUDA version: a warp for each row, or four where the rows are long.

use super::{Backward, Forward, Groups};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::formats::Float;
use crate::gemm::Accumulate;
use crate::{FloatDtype, Result};
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
    /// Warps for each row, 1 or 4.
    warps: u32,
}

/// Most columns for which a row has one warp, whose 32 threads then keep 32 columns each (`KEPT` of rms_norm.cu).
const COLUMNS_OF_A_WARP: usize = 1024;

impl Rows {
    fn new(rows: usize, cols: usize, groups: Groups) -> Rows {
        let Groups { first, per_row, stride } = groups;
        Rows {
            rows: rows as u64,
            stride: stride as u64,
            first: first as u32,
            per_row: per_row as u32,
            cols: cols as u32,
            warps: if cols <= COLUMNS_OF_A_WARP { 1 } else { 4 },
        }
    }

    /// Returns a grid with the warps of each row. A block has four warps.
    fn grid(self) -> Grid {
        Grid::rows((self.rows as usize * self.warps as usize).div_ceil(4))
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
    match (call.y.dtype(), call.x.dtype()) {
        (FloatDtype::Bf16, FloatDtype::Bf16) => forward_with(cuda, &FORWARD_BF16_BF16, call),
        (FloatDtype::Bf16, FloatDtype::F32) => forward_with(cuda, &FORWARD_BF16_F32, call),
        (FloatDtype::F32, _) => forward_with(cuda, &FORWARD_F32_F32, call),
    }
}

fn forward_with<Y: Float, X: Float>(cuda: &Cuda, entry: &Entry<ForwardArgs<Y, X>>, call: Forward<'_>) -> Result<()> {
    let of = Rows::new(call.rows, call.cols, call.groups);
    let (y, rstd, x, weight) = (call.y.cuda(), call.rstd.cuda(), call.x.cuda(), call.weight.cuda());
    cuda.launch(entry, of.grid(), ForwardArgs { y, rstd, x, weight, of, eps: call.eps, offset: call.offset })
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    match (call.dy.dtype(), call.x.dtype()) {
        (FloatDtype::Bf16, FloatDtype::Bf16) => backward_with(cuda, &BACKWARD_BF16_BF16, call),
        (FloatDtype::Bf16, FloatDtype::F32) => backward_with(cuda, &BACKWARD_BF16_F32, call),
        (FloatDtype::F32, _) => backward_with(cuda, &BACKWARD_F32_F32, call),
    }
}

fn backward_with<Y: Float, X: Float>(cuda: &Cuda, entry: &Entry<BackwardArgs<Y, X>>, call: Backward<'_>) -> Result<()> {
    let of = Rows::new(call.rows, call.cols, call.groups);
    let (dx, x, weight, rstd, dy) =
        (call.dx.cuda(), call.x.cuda(), call.weight.cuda(), call.rstd.cuda(), call.dy.cuda());
    let add = u32::from(call.accumulate == Accumulate::Add);
    cuda.launch(entry, of.grid(), BackwardArgs { dx, x, weight, rstd, dy, of, offset: call.offset, add })
}
