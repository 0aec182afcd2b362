//! CUDA version.

use super::Softcap;
use crate::Result;
use crate::cuda::{Cuda, Entry, Grid, Module, PtrMut};

#[repr(C)]
struct Args {
    x: PtrMut<f32>,
    len: u64,
    cap: f32,
}

const SOFTCAP: Entry<Args> = Entry::new(Module::Softcap, c"softcap", 256);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![SOFTCAP.any()]
}

pub(super) fn softcap(cuda: &Cuda, call: Softcap<'_>) -> Result<()> {
    let Softcap { len, cap, x } = call;
    cuda.launch(&SOFTCAP, Grid::elements(len, 256), Args { x: x.cuda(), len: len as u64, cap })
}
