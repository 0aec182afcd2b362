//! CUDA version.

use super::{Direction, Rotate, Tables};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{FloatSliceMut, Result};
use half::bf16;

#[repr(C)]
struct TablesArgs {
    cos: PtrMut<f32>,
    sin: PtrMut<f32>,
    positions: Ptr<u32>,
    variants: Ptr<u32>,
    inv_freq: Ptr<f32>,
    scaling: Ptr<f32>,
    len: u64,
    half: u64,
}

#[repr(C)]
struct RotateArgs<T> {
    x: PtrMut<T>,
    cos: Ptr<f32>,
    sin: Ptr<f32>,
    pairs: u64,
    heads: u64,
    half: u64,
    head_dim: u64,
    stride: u64,
}

const TABLES: Entry<TablesArgs> = Entry::new(Module::Rope, c"rope_tables", 256);
const FORWARD_F32: Entry<RotateArgs<f32>> = Entry::new(Module::Rope, c"rope_rotate_f32", 256);
const FORWARD_BF16: Entry<RotateArgs<bf16>> = Entry::new(Module::Rope, c"rope_rotate_bf16", 256);
const BACKWARD_F32: Entry<RotateArgs<f32>> = Entry::new(Module::Rope, c"rope_rotate_backward_f32", 256);
const BACKWARD_BF16: Entry<RotateArgs<bf16>> = Entry::new(Module::Rope, c"rope_rotate_backward_bf16", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![TABLES.any(), FORWARD_F32.any(), FORWARD_BF16.any(), BACKWARD_F32.any(), BACKWARD_BF16.any()]
}

pub(super) fn tables(cuda: &Cuda, call: Tables<'_>) -> Result<()> {
    let Tables { rows, half, positions, variants, inv_freq, scaling, cos, sin } = call;
    let args = TablesArgs {
        cos: cos.cuda(),
        sin: sin.cuda(),
        positions: positions.cuda(),
        variants: variants.values().cuda(),
        inv_freq: inv_freq.cuda(),
        scaling: scaling.cuda(),
        len: (rows * half) as u64,
        half: half as u64,
    };
    cuda.launch(&TABLES, Grid::elements(rows * half, 256), args)
}

pub(super) fn rotate(cuda: &Cuda, call: Rotate<'_>) -> Result<()> {
    let Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x } = call;
    let half = rotary_dim / 2;
    let pairs = rows * heads * half;
    let call = RotateCall {
        grid: Grid::elements(pairs, 256),
        cos: cos.cuda(),
        sin: sin.cuda(),
        pairs,
        heads,
        half,
        head_dim,
        stride,
    };
    match (x, direction) {
        (FloatSliceMut::F32(x), Direction::Forward) => call.launch(cuda, &FORWARD_F32, x.cuda()),
        (FloatSliceMut::F32(x), Direction::Backward) => call.launch(cuda, &BACKWARD_F32, x.cuda()),
        (FloatSliceMut::Bf16(x), Direction::Forward) => call.launch(cuda, &FORWARD_BF16, x.cuda()),
        (FloatSliceMut::Bf16(x), Direction::Backward) => call.launch(cuda, &BACKWARD_BF16, x.cuda()),
    }
}

/// The part of a call that does not depend on the format.
struct RotateCall {
    grid: Grid,
    cos: Ptr<f32>,
    sin: Ptr<f32>,
    pairs: usize,
    heads: usize,
    half: usize,
    head_dim: usize,
    stride: usize,
}

impl RotateCall {
    fn launch<T>(self, cuda: &Cuda, entry: &Entry<RotateArgs<T>>, x: PtrMut<T>) -> Result<()> {
        let RotateCall { grid, cos, sin, pairs, heads, half, head_dim, stride } = self;
        let [pairs, heads, half, head_dim, stride] = [pairs, heads, half, head_dim, stride].map(|size| size as u64);
        cuda.launch(entry, grid, RotateArgs { x, cos, sin, pairs, heads, half, head_dim, stride })
    }
}
