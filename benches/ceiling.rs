//! What the machine can do at this moment: products on its matrix unit or fused multiply-adds in registers, and a copy between
//! two large arrays.

use align_kernels::cpu::Isa;
use align_kernels::cpu::simd::{Simd, VectorTask};
use align_kernels::{Device, Precision};
use std::hint::black_box;
use std::time::Instant;

/// Larger than the caches of one core, and together with its copy larger than most shared ones.
const COPY_FLOATS: usize = 32 << 20;
/// About a millisecond.
const FMA_ROUNDS: usize = 200_000;

/// Both ceilings, measurable again and again.
pub struct Ceiling {
    threads: usize,
    isa: Isa,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Ceiling {
    pub fn new(device: &Device) -> Result<Ceiling, align_kernels::KernelError> {
        let isa = Isa::chosen()?;
        Ok(Ceiling { threads: device.threads(), isa, from: vec![1.0; COPY_FLOATS], to: vec![0.0; COPY_FLOATS] })
    }

    /// Operations per second of all threads together, a fused multiply-add counted as two: in f32, or those that a product with
    /// bf16 weights can reach at `precision` where the machine has a unit for bf16. An f32 then is three terms of bf16.
    pub fn flops(&self, precision: Option<Precision>) -> f64 {
        self.on_all_threads(|_| {
            let start = Instant::now();
            let flops = match precision.and_then(|precision| Some((precision, self.isa.bf16_burst()?))) {
                Some((Precision::Bf16, flops)) => flops,
                Some((Precision::F32, flops)) => flops / 3.0,
                None => self.isa.dispatch(MultiplyAdd),
            };
            flops / start.elapsed().as_secs_f64()
        })
    }

    /// Bytes per second of a copy, read and written ones together.
    pub fn bytes(&mut self) -> f64 {
        let part = COPY_FLOATS.div_ceil(self.threads);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (to, from) in self.to.chunks_mut(part).zip(self.from.chunks(part)) {
                scope.spawn(move || black_box(to).copy_from_slice(black_box(from)));
            }
        });
        (2 * COPY_FLOATS * size_of::<f32>()) as f64 / start.elapsed().as_secs_f64()
    }

    fn on_all_threads(&self, rate: impl Fn(usize) -> f64 + Sync) -> f64 {
        let rate = &rate;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|index| scope.spawn(move || rate(index))).collect();
            threads.into_iter().map(|thread| thread.join().expect("the loop does not panic")).sum()
        })
    }
}

/// Independent chains of multiply-adds that fill the registers and touch no memory. Gives the operations done.
struct MultiplyAdd;

impl VectorTask for MultiplyAdd {
    type Output = f64;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        // Latency 4, two a cycle: eight chains or more keep the units busy, if they fit into the registers.
        // SAFETY: `dispatch` made sure of the instruction set.
        unsafe { if S::REGISTERS > 10 { chains::<S, 10>() } else { chains::<S, 5>() } }
    }
}

#[inline(always)]
unsafe fn chains<S: Simd, const N: usize>() -> f64 {
    // SAFETY: the caller's contract.
    unsafe {
        let (factor, term) = (S::splat(black_box(0.999)), S::splat(black_box(0.37)));
        let mut sums = [S::splat(black_box(1.3)); N];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat(1.0 + i as f32 * black_box(0.01));
        }
        for _ in 0..FMA_ROUNDS {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, term);
            }
        }
        for sum in sums {
            black_box(S::reduce_add(sum));
        }
        (2 * N * S::LANES * FMA_ROUNDS) as f64
    }
}
