//! CUDA version.

use super::Argmax;
use crate::Result;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};

#[repr(C)]
struct Args {
    y: PtrMut<u32>,
    x: Ptr<f32>,
    left_out: Ptr<u32>,
    cols: u64,
    n_left_out: u64,
}

const ARGMAX: Entry<Args> = Entry::new(Module::Argmax, c"argmax", 1024);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![ARGMAX.any()]
}

pub(super) fn argmax(cuda: &Cuda, call: Argmax<'_>) -> Result<()> {
    let Argmax { rows, cols, x, left_out, y } = call;
    let n_left_out = left_out.len() as u64;
    let left_out = left_out.values().cuda();
    cuda.launch(&ARGMAX, Grid::rows(rows), Args { y: y.cuda(), x: x.cuda(), left_out, cols: cols as u64, n_left_out })
}
