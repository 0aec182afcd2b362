//! CUDA version.

use super::{Dropout, keep_scale, threshold};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{FloatSlice, FloatSliceMut, Result};
use half::bf16;

#[repr(C)]
struct Args<T> {
    y: PtrMut<T>,
    x: Ptr<T>,
    numbers: Ptr<u64>,
    cols: u64,
    key: u64,
    threshold: u32,
    scale: f32,
}

const F32: Entry<Args<f32>> = Entry::new(Module::Dropout, c"dropout_f32", 256);
const BF16: Entry<Args<bf16>> = Entry::new(Module::Dropout, c"dropout_bf16", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![F32.any(), BF16.any()]
}

pub(super) fn dropout(cuda: &Cuda, call: Dropout<'_>) -> Result<()> {
    let Dropout { rows, cols, p, key, numbers, x, y } = call;
    let (grid, cols, key) = (Grid::rows(rows), cols as u64, key.bits());
    let (numbers, threshold, scale) = (numbers.cuda(), threshold(p), keep_scale(p));
    match (x, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => {
            let (y, x) = (y.cuda(), x.cuda());
            cuda.launch(&F32, grid, Args { y, x, numbers, cols, key, threshold, scale })
        }
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => {
            let (y, x) = (y.cuda(), x.cuda());
            cuda.launch(&BF16, grid, Args { y, x, numbers, cols, key, threshold, scale })
        }
        _ => unreachable!("`run` checked the formats"),
    }
}
