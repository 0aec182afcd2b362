//! Fast version: splits the rows over the threads in blocks.

use super::Forward;
use crate::WeightSlice;
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::{Loaded, Simd, VectorTask};

/// `Forward::run` has checked that the ids are below the vocabulary's size.
pub(super) fn forward(cpu: &Cpu, call: Forward<'_>) {
    let Forward { hidden_size: cols, ids, table, scale, y, .. } = call;
    let (ids, y) = (ids.cpu(), y.cpu());
    match table {
        WeightSlice::F32(table) => rows(cpu, cols, ids, table.cpu(), scale, y),
        WeightSlice::F16(table) => rows(cpu, cols, ids, table.cpu(), scale, y),
        WeightSlice::Bf16(table) => rows(cpu, cols, ids, table.cpu(), scale, y),
    }
}

fn rows<T: Loaded>(cpu: &Cpu, cols: usize, ids: &[u32], table: &[T], scale: f32, y: &mut [f32]) {
    let block = rows_per_block(cols);
    let blocks = ids.chunks(block).zip(y.chunks_mut(block * cols));
    cpu.for_each_block(blocks, |(ids, y)| cpu.isa().dispatch(Rows { cols, ids, table, scale, y }));
}

struct Rows<'a, T> {
    cols: usize,
    ids: &'a [u32],
    table: &'a [T],
    scale: f32,
    y: &'a mut [f32],
}

impl<T: Loaded> VectorTask for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (&id, y) in self.ids.iter().zip(self.y.chunks_exact_mut(self.cols)) {
            let first = id as usize * self.cols;
            let row = &self.table[first..first + self.cols];
            let mut c = 0;
            while c + S::LANES <= self.cols {
                // SAFETY: `c + LANES` is at most `cols`, the length of `row` and `y`.
                unsafe {
                    let x = T::load::<S>(row.as_ptr().add(c));
                    S::store(y.as_mut_ptr().add(c), S::mul(S::splat(self.scale), x));
                }
                c += S::LANES;
            }
            for c in c..self.cols {
                y[c] = self.scale * row[c].wide();
            }
        }
    }
}
