//! CUDA version.

use super::Forward;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{Result, WeightSlice};
use half::{bf16, f16};

#[repr(C)]
struct Args<T> {
    y: PtrMut<f32>,
    ids: Ptr<u32>,
    table: Ptr<T>,
    cols: u64,
    scale: f32,
}

const F32: Entry<Args<f32>> = Entry::new(Module::Embed, c"embed_f32", 256);
const F16: Entry<Args<f16>> = Entry::new(Module::Embed, c"embed_f16", 256);
const BF16: Entry<Args<bf16>> = Entry::new(Module::Embed, c"embed_bf16", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![F32.any(), F16.any(), BF16.any()]
}

/// `Forward::run` has checked that the ids are below the vocabulary's size.
pub(super) fn forward(cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    let Forward { rows, hidden_size, ids, table, scale, y, .. } = call;
    let (grid, cols) = (Grid::rows(rows), hidden_size as u64);
    let (y, ids) = (y.cuda(), ids.values().cuda());
    match table {
        WeightSlice::F32(table) => cuda.launch(&F32, grid, Args { y, ids, table: table.cuda(), cols, scale }),
        WeightSlice::F16(table) => cuda.launch(&F16, grid, Args { y, ids, table: table.cuda(), cols, scale }),
        WeightSlice::Bf16(table) => cuda.launch(&BF16, grid, Args { y, ids, table: table.cuda(), cols, scale }),
    }
}
