//! Fast version. The threads share blocks of rows, or ranges of columns if the index decides which row is written.

use super::{Gather, Scatter, ScatterAdd};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::{BLOCK, rows_per_block};
use crate::cpu::threads::tasks::Disjoint;
use crate::cpu::vectors::pointwise::Map;
use crate::device::Element;
use crate::{Columns, FloatSlice, FloatSliceMut};
use std::ops::Range;

pub(super) fn gather(cpu: &Cpu, call: Gather<'_>) {
    let Gather { cols, index, x, y } = call;
    let (index, x) = (index.cpu(), x.cpu());
    let block = rows_per_block(cols);
    cpu.for_each_block(index.chunks(block).zip(y.cpu().chunks_mut(block * cols)), |(index, y)| {
        for (&row, y) in index.iter().zip(y.chunks_exact_mut(cols)) {
            y.copy_from_slice(&x[row as usize * cols..][..cols]);
        }
    });
}

pub(super) fn scatter(cpu: &Cpu, call: Scatter<'_>) {
    let Scatter { cols, index, x: Columns { values, first, stride }, y } = call;
    let index = index.cpu();
    match (values, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => {
            by_columns(cpu, cols, index, Rows { values: x.cpu(), first, stride }, y.cpu(), |x, y| y.copy_from_slice(x));
        }
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => {
            by_columns(cpu, cols, index, Rows { values: x.cpu(), first, stride }, y.cpu(), |x, y| y.copy_from_slice(x));
        }
        _ => unreachable!("`run` checked the formats"),
    }
}

pub(super) fn scatter_add(cpu: &Cpu, call: ScatterAdd<'_>) {
    let ScatterAdd { cols, index, x, y } = call;
    let x = Rows { values: x.cpu(), first: 0, stride: cols };
    by_columns(cpu, cols, index.cpu(), x, y.cpu(), |x, y| {
        cpu.isa().dispatch(Map { f: &crate::add::Sum, x: [x], y: [y] });
    });
}

/// Calls `work(x[i, part], y[index[i], part])` for all i in order. The parts are disjoint ranges of columns, which different
/// threads may take. So if a row of `y` occurs twice in the index, the calls for it are in the order of the index, whatever the
/// thread count.
fn by_columns<T: Element>(
    cpu: &Cpu,
    cols: usize,
    index: &[u32],
    x: Rows<'_, T>,
    y: &mut [T],
    work: impl Fn(&[T], &mut [T]) + Send + Sync,
) {
    /// The width of every part but the last is a multiple of this. 32 columns fill one cache line in bf16 and two in f32, so no
    /// two threads write to the same line of an aligned row.
    const LINE: usize = 32;
    let parts = if index.len() * cols <= BLOCK { 1 } else { cpu.threads() };
    let width = cols.div_ceil(parts).next_multiple_of(LINE);
    let y = Disjoint::new(y);
    cpu.for_each_block((0..cols).step_by(width).map(|first| first..cols.min(first + width)), |part: Range<usize>| {
        for (i, &row) in index.iter().enumerate() {
            // SAFETY: the parts are disjoint, and this call owns `part` and holds one row of it at a time.
            let y = unsafe { y.slice(row as usize * cols + part.start..row as usize * cols + part.end) };
            work(&x.values[i * x.stride + x.first..][part.clone()], y);
        }
    });
}

/// The rows to read. Each starts at column `first` of a wider row of `stride` elements.
struct Rows<'a, T> {
    values: &'a [T],
    first: usize,
    stride: usize,
}
