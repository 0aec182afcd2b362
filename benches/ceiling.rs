//! Measures how fast the machine is at this moment. For arithmetic, it times products on the matrix unit, or fused multiply-adds
//! in registers. For memory, it times a copy between two large arrays.

use align_kernels::cpu::Isa;
use align_kernels::{Device, Precision};
use std::hint::black_box;
use std::time::Instant;

/// Number of floats in the copied array. They fill 128 MiB, more than the caches of one core. The array and its copy, 256 MiB,
/// exceed most shared caches.
const COPY_FLOATS: usize = 32 << 20;

/// Measures the ceiling of arithmetic and the ceiling of memory. Each can be measured any number of times.
pub(crate) struct Ceiling {
    threads: usize,
    isa: Isa,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Ceiling {
    pub(crate) fn new(device: &Device) -> Result<Ceiling, align_kernels::KernelError> {
        let isa = Isa::chosen()?;
        Ok(Ceiling { threads: device.threads(), isa, from: vec![1.0; COPY_FLOATS], to: vec![0.0; COPY_FLOATS] })
    }

    /// Measures the operations per second of all threads together. A fused multiply-add counts as two. If the machine has a
    /// matrix unit for bf16, the result is the rate that a product with bf16 weights can reach at `precision`. For
    /// [`Precision::F32`], each f32 is split into several bf16 terms and the unit multiplies each of them, which lowers the rate.
    /// Without a unit or a `precision`, measures multiply-adds.
    pub(crate) fn flops(&self, precision: Option<Precision>) -> f64 {
        self.on_all_threads(|_| {
            let start = Instant::now();
            let on_unit = match precision {
                Some(Precision::Bf16) => self.isa.bf16_burst(),
                Some(Precision::F32) => {
                    self.isa.bf16_terms_of_f32().and_then(|terms| Some(self.isa.bf16_burst()? / terms as f64))
                }
                None => None,
            };
            let flops = on_unit.unwrap_or_else(|| self.isa.fma_burst());
            flops / start.elapsed().as_secs_f64()
        })
    }

    /// Measures the bytes per second of a copy. Reads and writes both count.
    pub(crate) fn bytes(&mut self) -> f64 {
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
