//! Fast version. The threads share the blocks, and the sums of the blocks are added in order.

use crate::cpu::Cpu;
use crate::cpu::vectors::{Simd, VectorTask};

/// Number of elements in a block. A block has 256 KiB, so there are few sums of blocks to keep.
const BLOCK: usize = 64 * 1024;
/// Number of running sums within a block. They fill four vectors of eight f64, which hides the latency of an addition.
const SUMS: usize = 32;

pub(super) fn sum_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(BLOCK)];
    cpu.for_each_block(x.chunks(BLOCK).zip(&mut sums), |(x, sum)| *sum = cpu.isa().dispatch(Block(x)));
    sums.into_iter().sum()
}

/// One block. Element i is added to running sum i % 32, whatever the instruction set. Then the running sums are added in order.
struct Block<'a>(&'a [f32]);

impl VectorTask for Block<'_> {
    type Output = f64;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        let mut sums = [0.0f64; SUMS];
        let chunks = self.0.chunks_exact(SUMS);
        let rest = chunks.remainder();
        for x in chunks {
            for j in 0..SUMS {
                sums[j] += f64::from(x[j]) * f64::from(x[j]);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.into_iter().sum()
    }
}
