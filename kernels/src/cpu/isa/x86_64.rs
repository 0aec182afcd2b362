//! The instruction sets of x86-64.

use crate::cpu::unit::{Unit, amx, dot};
use crate::cpu::vectors::burst::MultiplyAdd;
use crate::cpu::vectors::{VectorTask, avx2, avx512, portable};
use std::sync::OnceLock;
use std::time::Instant;

/// An instruction set that the kernels have code for. Outside this crate, the values come only from [`Isa::available`] and
/// [`Isa::chosen`] (the variants are `non_exhaustive`), so this machine has every set that a value names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The instructions that every target has.
    Portable,
    /// AVX2, FMA and F16C: 8 lanes.
    #[non_exhaustive]
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 lanes.
    #[non_exhaustive]
    Avx512,
    /// The sets of `Avx512` and AVX-512 BF16: 16 lanes. Dot products in vectors multiply matrices of bf16.
    #[non_exhaustive]
    Avx512Bf16,
    /// The sets of `Avx512`, AVX-512 BF16 and AMX: 16 lanes. Tiles multiply matrices of bf16.
    #[non_exhaustive]
    Amx,
}

impl Isa {
    /// Lists the instruction sets that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        if !avx2 {
            return found;
        }
        found.push(Isa::Avx2);
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if !avx512 {
            return found;
        }
        found.push(Isa::Avx512);
        if !is_x86_feature_detected!("avx512bf16") {
            return found;
        }
        // some processors run dot products of bf16 at half the speed of multiply-adds in f32: there `Avx512Bf16` ranks below
        // `Avx512`
        // SAFETY: `avx512bf16` and the AVX-512 sets were found above.
        let faster = unsafe { dot_products_are_faster() };
        found.insert(found.len() - usize::from(!faster), Isa::Avx512Bf16);
        if amx::available() {
            found.push(Isa::Amx);
        } else if amx::emulated() {
            // the emulated unit is the slowest by far
            found.insert(0, Isa::Amx);
        }
        found
    }

    /// The name that selects this set in `ALIGN_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// The unit that multiplies bf16. `None` if this instruction set has none.
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            Isa::Avx512Bf16 => Some(Unit::Dot),
            Isa::Amx => Some(Unit::Amx),
            Isa::Portable | Isa::Avx2 | Isa::Avx512 => None,
        }
    }

    /// Runs `task` compiled for this instruction set.
    pub(crate) fn dispatch<T: VectorTask>(self, task: T) -> T::Output {
        match self {
            // SAFETY: the portable code needs no extension.
            Isa::Portable => unsafe { task.run::<portable::Portable>() },
            // SAFETY: `Isa::available` found the features that the function enables; nothing else makes this value.
            Isa::Avx2 => unsafe { avx2::run(task) },
            // SAFETY: `Isa::available` found the features that the function enables; nothing else makes these values.
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run(task) },
        }
    }
}

/// Whether dot products of bf16 in vectors take less time than the multiply-adds that they replace. This is measured once: bursts
/// of the two alternate, and the best burst of each counts. On some processors dot products are twice as fast as multiply-adds, on
/// others half as fast.
///
/// # Safety
/// The processor has AVX-512 with bf16.
unsafe fn dot_products_are_faster() -> bool {
    static FASTER: OnceLock<bool> = OnceLock::new();
    const ROUNDS: usize = 10_000;
    // about halfway between the speed ratios of the two kinds of processor, 2 and 0.5, so that a busy moment cannot make one look
    // like the other
    const MARGIN: f64 = 1.2;
    *FASTER.get_or_init(|| {
        let mut best = [0.0f64; 2];
        for _ in 0..5 {
            let started = Instant::now();
            // SAFETY: the processor has AVX-512 with bf16, as the caller promises.
            let flops = unsafe { dot::burst(ROUNDS) };
            best[0] = best[0].max(flops / started.elapsed().as_secs_f64());
            let started = Instant::now();
            let flops = Isa::Avx512.dispatch(MultiplyAdd { rounds: ROUNDS });
            best[1] = best[1].max(flops / started.elapsed().as_secs_f64());
        }
        best[0] > MARGIN * best[1]
    })
}
