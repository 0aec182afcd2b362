//! Fast version: blocks of rows, or blocks of columns where the index decides which row is written.

use super::{AddColumns, Gather, Scatter, ScatterAdd, TakeColumns};
use crate::cpu::blocks::{BLOCK, rows_per_block};
use crate::cpu::simd::pointwise::Map;
use crate::device::Cpu;
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
    let Scatter { cols, index, x, y } = call;
    by_columns(cpu, cols, index.cpu(), x.cpu(), y.cpu(), |x, y| y.copy_from_slice(x));
}

pub(super) fn scatter_add(cpu: &Cpu, call: ScatterAdd<'_>) {
    let ScatterAdd { cols, index, x, y } = call;
    by_columns(cpu, cols, index.cpu(), x.cpu(), y.cpu(), |x, y| {
        cpu.isa().dispatch(Map { f: &crate::add::Sum, x: [x], y: [y] });
    });
}

pub(super) fn take_columns(cpu: &Cpu, call: TakeColumns<'_>) {
    let TakeColumns { rows: _, x_cols, first_col, y_cols, x, y } = call;
    let block = rows_per_block(y_cols);
    cpu.for_each_block(x.cpu().chunks(block * x_cols).zip(y.cpu().chunks_mut(block * y_cols)), |(x, y)| {
        for (x, y) in x.chunks_exact(x_cols).zip(y.chunks_exact_mut(y_cols)) {
            y.copy_from_slice(&x[first_col..first_col + y_cols]);
        }
    });
}

pub(super) fn add_columns(cpu: &Cpu, call: AddColumns<'_>) {
    let AddColumns { rows: _, y_cols, first_col, x_cols, x, y } = call;
    let block = rows_per_block(x_cols);
    cpu.for_each_block(x.cpu().chunks(block * x_cols).zip(y.cpu().chunks_mut(block * y_cols)), |(x, y)| {
        for (x, y) in x.chunks_exact(x_cols).zip(y.chunks_exact_mut(y_cols)) {
            let y = &mut y[first_col..first_col + x_cols];
            cpu.isa().dispatch(Map { f: &crate::add::Sum, x: [x], y: [y] });
        }
    });
}

/// Calls `work(x[i, part], y[index[i], part])` for i in order, for disjoint parts of the columns on different threads: rows
/// of `y` that are hit twice are hit in the order of the index, whatever the thread count.
fn by_columns(
    cpu: &Cpu,
    cols: usize,
    index: &[u32],
    x: &[f32],
    y: &mut [f32],
    work: impl Fn(&[f32], &mut [f32]) + Send + Sync,
) {
    /// A cache line: no two threads write the same one of an aligned row.
    const LINE: usize = 16;
    let parts = if x.len() <= BLOCK { 1 } else { cpu.threads() };
    let width = cols.div_ceil(parts).next_multiple_of(LINE);
    let target = Target { at: y.as_mut_ptr(), rows: y.len() / cols, cols };
    cpu.for_each_block((0..cols).step_by(width).map(|first| first..cols.min(first + width)), |part: Range<usize>| {
        for (&row, x) in index.iter().zip(x.chunks_exact(cols)) {
            // SAFETY: the parts are disjoint, this call owns `part` and holds one row of it at a time; `target` borrows `y` for
            // as long as the calls last.
            let y = unsafe { target.part(row as usize, part.clone()) };
            work(&x[part.clone()], y);
        }
    });
}

/// The rows that are written, shared between threads that write different columns.
struct Target {
    at: *mut f32,
    rows: usize,
    cols: usize,
}

// SAFETY: the pointer is used through `part` alone, whose contract keeps the threads apart.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The memory is exclusively borrowed, and nobody else holds columns of `part` in the same row.
    #[expect(clippy::mut_from_ref, reason = "the contract makes the parts disjoint")]
    unsafe fn part(&self, row: usize, part: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && part.start <= part.end && part.end <= self.cols, "`run` checked the index");
        // SAFETY: by the assertion the range lies within rows * cols elements; the rest is the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(row * self.cols + part.start), part.len()) }
    }
}
