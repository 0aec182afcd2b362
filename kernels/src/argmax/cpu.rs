//! Fast version. The threads share the rows. A pass in vectors finds a row's maximum, and a search then finds the first column
//! that holds it.

use super::{Argmax, NONE};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::{Simd, VectorTask, largest};
use std::ops::Range;

pub(super) fn argmax(cpu: &Cpu, call: Argmax<'_>) {
    let Argmax { rows: _, cols, x, left_out, y } = call;
    let runs = runs(left_out.cpu(), cols);
    let block = rows_per_block(cols);
    let blocks = x.cpu().chunks(block * cols).zip(y.cpu().chunks_mut(block));
    cpu.for_each_block(blocks, |(x, y)| {
        for (row, y) in x.chunks_exact(cols).zip(y) {
            let largest = (runs.iter())
                .map(|run| cpu.isa().dispatch(Largest(&row[run.clone()])))
                .fold(f32::NEG_INFINITY, |largest, value| if value > largest { value } else { largest });
            let place = |run: &Range<usize>| Some(run.start + first(&row[run.clone()], largest)?);
            *y = runs.iter().find_map(place).map_or(NONE, |column| column as u32);
        }
    });
}

/// Finds the first place of a value: first the chunk that holds it, in vectors, then the place in that chunk.
fn first(row: &[f32], value: f32) -> Option<usize> {
    const CHUNK: usize = 64;
    let has_value = |chunk: &[f32]| chunk.iter().fold(false, |found, x| found | (*x == value));
    let chunk = row.chunks(CHUNK).position(has_value)?;
    row[chunk * CHUNK..].iter().position(|x| *x == value).map(|place| chunk * CHUNK + place)
}

/// Returns the ranges of columns that count.
fn runs(left_out: &[u32], cols: usize) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = left_out.iter().map(|&column| column as usize).filter(|&column| column < cols).collect();
    ends.sort_unstable();
    ends.push(cols);
    let mut start = 0;
    let run = |end: usize| {
        let run = start..end.max(start);
        start = end + 1;
        run
    };
    ends.into_iter().map(run).filter(|run| !run.is_empty()).collect()
}

/// The largest value that is not NaN, or minus infinity if all are NaN.
struct Largest<'a>(&'a [f32]);

impl VectorTask for Largest<'_> {
    type Output = f32;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: the caller of `VectorTask::run` promises that the processor has the instruction set of S.
        unsafe { largest::<S>(self.0) }
    }
}
