//! Fast version: splits the rows over the threads in blocks, and computes many counters at a time.

use super::{Dropout, keep_scale, threshold};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::{Simd, Stored, VectorTask};
use crate::rng::Key;
use crate::{FloatSlice, FloatSliceMut};

pub(super) fn dropout(cpu: &Cpu, call: Dropout<'_>) {
    let Dropout { rows: _, cols, p, key, numbers, x, y } = call;
    match (x, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => masked(cpu, cols, p, key, numbers.cpu(), x.cpu(), y.cpu()),
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => masked(cpu, cols, p, key, numbers.cpu(), x.cpu(), y.cpu()),
        _ => unreachable!("`run` checked the formats"),
    }
}

fn masked<T: Stored>(cpu: &Cpu, cols: usize, p: f32, key: Key, numbers: &[u64], x: &[T], y: &mut [T]) {
    let block = rows_per_block(cols);
    let blocks = numbers.chunks(block).zip(x.chunks(block * cols).zip(y.chunks_mut(block * cols)));
    let (threshold, scale) = (threshold(p), keep_scale(p));
    cpu.for_each_block(blocks, |(numbers, (x, y))| {
        cpu.isa().dispatch(Rows { cols, threshold, scale, key, numbers, x, y });
    });
}

struct Rows<'a, T> {
    cols: usize,
    threshold: u32,
    scale: f32,
    key: Key,
    numbers: &'a [u64],
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Stored> VectorTask for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // The state of a counter is four u64. The states take half of the registers: 16 of 32 with 8 lanes of u64, 8 of 16 with 4
        // lanes, or 16 of 32 with 2 lanes.
        if S::LANES == 16 { self.rows::<32, 128>() } else { self.rows::<8, 32>() }
    }
}

impl<T: Stored> Rows<'_, T> {
    /// Loops over arrays, which the compiler turns into vectors of the instruction set. `COLS = 4 * COUNTERS`: each counter
    /// gives the words of four columns.
    #[inline(always)]
    fn rows<const COUNTERS: usize, const COLS: usize>(self) {
        let rows = self.x.chunks_exact(self.cols).zip(self.y.chunks_exact_mut(self.cols));
        for (&number, (x, y)) in self.numbers.iter().zip(rows) {
            for (chunk, (x, y)) in x.chunks(COLS).zip(y.chunks_mut(COLS)).enumerate() {
                let words = self.key.words_of::<COUNTERS>(number, (chunk * COUNTERS) as u64);
                let words = words.as_flattened();
                match (x.as_array::<COLS>(), y.as_mut_array::<COLS>()) {
                    (Some(x), Some(y)) => apply(self.threshold, self.scale, words, x, y),
                    _ => apply(self.threshold, self.scale, words, x, y),
                }
            }
        }
    }
}

#[inline(always)]
fn apply<T: Stored>(threshold: u32, scale: f32, words: &[u32], x: &[T], y: &mut [T]) {
    for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
        *y = T::narrow(if *word >= threshold { x.wide() * scale } else { 0.0 });
    }
}
