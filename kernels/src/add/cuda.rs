//! CUDA version.

use super::Add;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{FloatSlice, FloatSliceMut, Result};
use half::bf16;

#[repr(C)]
struct Args<Y, X> {
    y: PtrMut<Y>,
    x: Ptr<X>,
    len: u64,
}

const F32_F32: Entry<Args<f32, f32>> = Entry::new(Module::Add, c"add_f32_f32", 256);
const F32_BF16: Entry<Args<f32, bf16>> = Entry::new(Module::Add, c"add_f32_bf16", 256);
const BF16_F32: Entry<Args<bf16, f32>> = Entry::new(Module::Add, c"add_bf16_f32", 256);
const BF16_BF16: Entry<Args<bf16, bf16>> = Entry::new(Module::Add, c"add_bf16_bf16", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![F32_F32.any(), F32_BF16.any(), BF16_F32.any(), BF16_BF16.any()]
}

pub(super) fn add(cuda: &Cuda, call: Add<'_>) -> Result<()> {
    let (len, grid) = (call.len as u64, Grid::elements(call.len, 256));
    match (call.x, call.y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => {
            cuda.launch(&F32_F32, grid, Args { y: y.cuda(), x: x.cuda(), len })
        }
        (FloatSlice::F32(x), FloatSliceMut::Bf16(y)) => {
            cuda.launch(&BF16_F32, grid, Args { y: y.cuda(), x: x.cuda(), len })
        }
        (FloatSlice::Bf16(x), FloatSliceMut::F32(y)) => {
            cuda.launch(&F32_BF16, grid, Args { y: y.cuda(), x: x.cuda(), len })
        }
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => {
            cuda.launch(&BF16_BF16, grid, Args { y: y.cuda(), x: x.cuda(), len })
        }
    }
}
