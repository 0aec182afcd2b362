//! CUDA version. The card sums each block. The host waits once for the sums of all blocks and adds them up.

use crate::arena::taken_on_card;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::{Buffer, Device, Result, Slice};

/// Number of elements in a block. The CPU version and the CUDA kernel use the same number.
const BLOCK: usize = 64 * 1024;

#[repr(C)]
struct Args {
    sums: PtrMut<f64>,
    x: Ptr<f32>,
    len: u64,
}

const SUM_SQUARES: Entry<Args> = Entry::new(Module::SumSquares, c"sum_squares", 32);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![SUM_SQUARES.any()]
}

/// Returns the bytes of memory on the card that a call needs while it runs.
pub(super) fn scratch(xs: &[Slice<'_, f32>]) -> usize {
    taken_on_card(size_of::<f64>() * xs.iter().map(|x| x.len().div_ceil(BLOCK)).sum::<usize>())
}

pub(super) fn sum_squares(device: &Device, cuda: &Cuda, xs: &[Slice<'_, f32>]) -> Result<Vec<f64>> {
    let blocks = || xs.iter().map(|x| x.len().div_ceil(BLOCK));
    let mut sums: Buffer<f64> = device.alloc("sum_squares", blocks().sum())?;
    let mut first = 0;
    for (x, blocks) in xs.iter().zip(blocks()) {
        let sums = sums.view_mut().range(first..first + blocks).cuda();
        cuda.launch(&SUM_SQUARES, Grid::rows(blocks), Args { sums, x: x.cuda(), len: x.len() as u64 })?;
        first += blocks;
    }
    let mut sums = sums.download()?.into_iter();
    Ok(blocks().map(|blocks| sums.by_ref().take(blocks).sum()).collect())
}
