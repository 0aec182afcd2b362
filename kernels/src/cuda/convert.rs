//! Conversions between the formats of activations (`device/float.cu`).

use super::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::Result;
use half::bf16;

#[repr(C)]
struct Args<T, F> {
    to: PtrMut<T>,
    from: Ptr<F>,
    len: u64,
}

const NARROW: Entry<Args<bf16, f32>> = Entry::new(Module::Float, c"convert_bf16_f32", 256);
const WIDEN: Entry<Args<f32, bf16>> = Entry::new(Module::Float, c"convert_f32_bf16", 256);

#[cfg(test)]
pub(super) fn entries() -> Vec<super::AnyEntry> {
    vec![NARROW.any(), WIDEN.any()]
}

impl Cuda {
    /// Rounds `len` elements to bf16.
    pub(crate) fn narrow(&self, to: PtrMut<bf16>, from: Ptr<f32>, len: usize) -> Result<()> {
        self.launch(&NARROW, Grid::elements(len, 256), Args { to, from, len: len as u64 })
    }

    /// Widens `len` elements to f32.
    pub(crate) fn widen(&self, to: PtrMut<f32>, from: Ptr<bf16>, len: usize) -> Result<()> {
        self.launch(&WIDEN, Grid::elements(len, 256), Args { to, from, len: len as u64 })
    }
}
