//! Runs vectors at their limit, on one thread, from registers. This gives benches their ceilings, and decides between two ways to
//! multiply if the processor has both.

use super::{Simd, VectorTask};
use std::hint::black_box;

/// Runs independent chains of multiply-adds that fill the registers and touch no memory. Returns the operations done.
pub(crate) struct MultiplyAdd {
    pub(crate) rounds: usize,
}

impl VectorTask for MultiplyAdd {
    type Output = f64;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // Latency 4, two a cycle: eight chains or more keep the units busy, if they fit into the registers.
        // SAFETY: `dispatch` checked that the processor has the instruction set.
        unsafe { if S::REGISTERS > 10 { chains::<S, 10>(self.rounds) } else { chains::<S, 5>(self.rounds) } }
    }
}

#[inline(always)]
unsafe fn chains<S: Simd, const N: usize>(rounds: usize) -> f64 {
    // SAFETY: the contract of `VectorTask::run`: the processor has the instruction set of S.
    unsafe {
        let (factor, term) = (S::splat(black_box(0.999)), S::splat(black_box(0.37)));
        let mut sums = [S::splat(black_box(1.3)); N];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat(1.0 + i as f32 * black_box(0.01));
        }
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, term);
            }
        }
        for sum in sums {
            black_box(S::reduce_add(sum));
        }
        (2 * N * S::LANES * rounds) as f64
    }
}
