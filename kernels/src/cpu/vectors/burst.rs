//! Runs multiply-adds at the peak rate of the vectors, on one thread and from registers alone. Benches compare kernels with that
//! rate. The rate also decides whether dot products of bf16 are worth using on a processor that has them.

use super::{Simd, VectorTask};
use std::hint::black_box;

/// Runs independent chains of multiply-adds that touch no memory. Returns the number of floating-point operations.
pub(crate) struct MultiplyAdd {
    pub(crate) rounds: usize,
}

impl VectorTask for MultiplyAdd {
    type Output = f64;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // A multiply-add takes four cycles and two start in each, so eight chains or more keep the units busy. If there are too
        // few registers for ten, five chains have to do.
        // SAFETY: `dispatch` runs this only on a processor with the instruction set.
        unsafe { if S::REGISTERS > 10 { chains::<S, 10>(self.rounds) } else { chains::<S, 5>(self.rounds) } }
    }
}

#[inline(always)]
unsafe fn chains<S: Simd, const N: usize>(rounds: usize) -> f64 {
    // SAFETY: the processor has the instruction set of S, by the contract of `VectorTask::run`, which calls this.
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
