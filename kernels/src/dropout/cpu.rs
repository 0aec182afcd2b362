//! Fast version: blocks of rows over the threads.

use super::{Dropout, keep_scale, threshold};
use crate::cpu::blocks::rows_per_block;
use crate::device::Cpu;
use crate::rng::Key;

pub(super) fn dropout(cpu: &Cpu, call: Dropout<'_>) {
    let Dropout { rows: _, cols, p, key, first_row, x, y } = call;
    let block = rows_per_block(cols);
    let blocks = x.cpu().chunks(block * cols).zip(y.cpu().chunks_mut(block * cols)).enumerate();
    cpu.for_each_block(blocks, |(index, (x, y))| {
        let first_row = first_row + (index * block) as u64;
        for (r, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).enumerate() {
            row(key, first_row + r as u64, p, x, y);
        }
    });
}

fn row(key: Key, row: u64, p: f32, x: &[f32], y: &mut [f32]) {
    let (threshold, scale) = (threshold(p), keep_scale(p));
    for (i, (x, y)) in x.chunks(4).zip(y.chunks_mut(4)).enumerate() {
        let words = key.words(row, i as u64);
        for j in 0..x.len() {
            y[j] = if words[j] >= threshold { x[j] * scale } else { 0.0 };
        }
    }
}
