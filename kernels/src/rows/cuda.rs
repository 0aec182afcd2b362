//! CUDA version.

use super::{Gather, Scatter, ScatterAdd};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::formats::Float;
use crate::{Columns, FloatDtype, Result};
use half::bf16;

#[repr(C)]
struct GatherArgs {
    y: PtrMut<f32>,
    x: Ptr<f32>,
    index: Ptr<u32>,
    cols: u64,
}

#[repr(C)]
struct ScatterArgs<T> {
    y: PtrMut<T>,
    x: Ptr<T>,
    index: Ptr<u32>,
    cols: u64,
    first: u64,
    stride: u64,
}

#[repr(C)]
struct ScatterAddArgs {
    y: PtrMut<f32>,
    x: Ptr<f32>,
    index: Ptr<u32>,
    n: u64,
    cols: u64,
}

const GATHER: Entry<GatherArgs> = Entry::new(Module::Rows, c"rows_gather", 256);
const SCATTER_F32: Entry<ScatterArgs<f32>> = Entry::new(Module::Rows, c"rows_scatter_f32", 256);
const SCATTER_BF16: Entry<ScatterArgs<bf16>> = Entry::new(Module::Rows, c"rows_scatter_bf16", 256);
const SCATTER_ADD: Entry<ScatterAddArgs> = Entry::new(Module::Rows, c"rows_scatter_add", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![GATHER.any(), SCATTER_F32.any(), SCATTER_BF16.any(), SCATTER_ADD.any()]
}

pub(super) fn gather(cuda: &Cuda, call: Gather<'_>) -> Result<()> {
    let Gather { cols, index, x, y } = call;
    let arguments = GatherArgs { y: y.cuda(), x: x.cuda(), index: index.values().cuda(), cols: cols as u64 };
    cuda.launch(&GATHER, Grid::rows(index.len()), arguments)
}

pub(super) fn scatter(cuda: &Cuda, call: Scatter<'_>) -> Result<()> {
    match call.y.dtype() {
        FloatDtype::F32 => scatter_with(cuda, &SCATTER_F32, call),
        FloatDtype::Bf16 => scatter_with(cuda, &SCATTER_BF16, call),
    }
}

fn scatter_with<T: Float>(cuda: &Cuda, entry: &Entry<ScatterArgs<T>>, call: Scatter<'_>) -> Result<()> {
    let Scatter { cols, index, x: Columns { values, first, stride }, y } = call;
    let grid = Grid::rows(index.len());
    let (index, cols, first, stride) = (index.values().cuda(), cols as u64, first as u64, stride as u64);
    cuda.launch(entry, grid, ScatterArgs { y: y.cuda(), x: values.cuda(), index, cols, first, stride })
}

pub(super) fn scatter_add(cuda: &Cuda, call: ScatterAdd<'_>) -> Result<()> {
    let ScatterAdd { cols, index, x, y } = call;
    let n = index.len();
    let (y, x, index) = (y.cuda(), x.cuda(), index.values().cuda());
    // one warp for each index
    let grid = Grid::elements(n.saturating_mul(32), SCATTER_ADD.threads);
    cuda.launch(&SCATTER_ADD, grid, ScatterAddArgs { y, x, index, n: n as u64, cols: cols as u64 })
}
