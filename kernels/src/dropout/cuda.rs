//! CUDA version.

use super::{Dropout, keep_scale, threshold};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::formats::Float;
use crate::{FloatDtype, Result};
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
    match call.x.dtype() {
        FloatDtype::F32 => launch(cuda, &F32, call),
        FloatDtype::Bf16 => launch(cuda, &BF16, call),
    }
}

fn launch<T: Float>(cuda: &Cuda, entry: &Entry<Args<T>>, call: Dropout<'_>) -> Result<()> {
    let Dropout { rows, cols, p, key, numbers, x, y } = call;
    let (y, x, numbers, cols, key) = (y.cuda(), x.cuda(), numbers.cuda(), cols as u64, key.bits());
    let (threshold, scale) = (threshold(p), keep_scale(p));
    cuda.launch(entry, Grid::rows(rows), Args { y, x, numbers, cols, key, threshold, scale })
}
