//! What an instruction set reaches at its limit, on one thread, from registers: the ceilings of benches, and what decides
//! between two ways to multiply where the processor has both.

use super::Isa;
use super::simd::{Simd, VectorTask};
#[cfg(target_arch = "x86_64")]
use super::tiles::{amx, microkernel::dot};
use std::hint::black_box;
#[cfg(target_arch = "x86_64")]
use std::{sync::OnceLock, time::Instant};

/// About a millisecond of each.
const FMA_ROUNDS: usize = 200_000;
#[cfg(target_arch = "x86_64")]
const DOT_ROUNDS: usize = 100_000;

impl Isa {
    /// Runs fused multiply-adds for about a millisecond, and gives the floating-point operations that they are.
    pub fn fma_burst(self) -> f64 {
        self.dispatch(MultiplyAdd { rounds: FMA_ROUNDS })
    }

    /// Runs what multiplies bf16 for about a millisecond, and gives the floating-point operations that it did. `None` without
    /// such a unit.
    pub fn bf16_burst(self) -> Option<f64> {
        match self {
            // SAFETY: `available` found the unit; no other way makes these values.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Some(unsafe { dot::burst(DOT_ROUNDS) }),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Some(unsafe { amx::burst() }),
            _ => None,
        }
    }
}

/// Whether dot products of bf16 in vectors take less time than the multiply-adds that they stand for. Measured once, the best
/// of a few bursts of each in turns: where they are faster they are twice as fast, where not, half as fast.
///
/// # Safety
/// The processor has AVX-512 with bf16.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn dot_products_are_faster() -> bool {
    static FASTER: OnceLock<bool> = OnceLock::new();
    const ROUNDS: usize = 10_000;
    // halfway between the two kinds of processors, so that no busy moment makes one of the other
    const MARGIN: f64 = 1.2;
    *FASTER.get_or_init(|| {
        let mut best = [0.0f64; 2];
        for _ in 0..5 {
            let started = Instant::now();
            // SAFETY: the caller's contract.
            let flops = unsafe { dot::burst(ROUNDS) };
            best[0] = best[0].max(flops / started.elapsed().as_secs_f64());
            let started = Instant::now();
            let flops = Isa::Avx512.dispatch(MultiplyAdd { rounds: ROUNDS });
            best[1] = best[1].max(flops / started.elapsed().as_secs_f64());
        }
        best[0] > MARGIN * best[1]
    })
}

/// Independent chains of multiply-adds that fill the registers and touch no memory. Gives the operations done.
struct MultiplyAdd {
    rounds: usize,
}

impl VectorTask for MultiplyAdd {
    type Output = f64;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // Latency 4, two a cycle: eight chains or more keep the units busy, if they fit into the registers.
        // SAFETY: `dispatch` made sure of the instruction set.
        unsafe { if S::REGISTERS > 10 { chains::<S, 10>(self.rounds) } else { chains::<S, 5>(self.rounds) } }
    }
}

#[inline(always)]
unsafe fn chains<S: Simd, const N: usize>(rounds: usize) -> f64 {
    // SAFETY: the caller's contract.
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
