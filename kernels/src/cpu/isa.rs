//! Instruction sets, detected at run time.

#[cfg(target_arch = "x86_64")]
use super::tiles::microkernel::Unit;
use crate::{KernelError, Result};

/// An instruction set that the kernels have code for. Outside this crate the values come from [`Isa::available`] and
/// [`Isa::chosen`] alone (the variants are `non_exhaustive`), so whoever holds one may run its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every target has.
    Portable,
    /// x86-64 with AVX2, FMA and F16C: 8 lanes.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 lanes.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx512,
    /// x86-64 with AVX-512 as above and its dot products of bf16: vectors of 16 lanes, matrix products of bf16 in those.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Avx512Bf16,
    /// x86-64 with AVX-512 as above, its bf16 conversions, and AMX: vectors of 16 lanes, matrix products in tiles of bf16.
    #[cfg(target_arch = "x86_64")]
    #[non_exhaustive]
    Amx,
    /// 64-bit Arm with NEON: 4 lanes.
    #[cfg(target_arch = "aarch64")]
    #[non_exhaustive]
    Neon,
}

impl Isa {
    /// Those that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Isa::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                found.push(Isa::Avx512);
                if is_x86_feature_detected!("avx512bf16") {
                    // some processors have these products at half the speed of f32: there they are for tests
                    // SAFETY: just found.
                    let faster = unsafe { super::burst::dot_products_are_faster() };
                    found.insert(found.len() - usize::from(!faster), Isa::Avx512Bf16);
                    if super::tiles::amx::available() {
                        found.push(Isa::Amx);
                    } else {
                        // the slowest by far
                        #[cfg(all(test, target_os = "linux"))]
                        if super::tiles::amx::emulator::install() {
                            found.insert(0, Isa::Amx);
                        }
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Isa::Neon);
        }
        found
    }

    /// The best one, or the one that the variable `ALIGN_CPU` names.
    ///
    /// # Errors
    /// [`KernelError::InstructionSet`] if the variable names one that this machine does not have.
    pub fn chosen() -> Result<Isa> {
        let available = Isa::available();
        match std::env::var("ALIGN_CPU") {
            Err(_) => Ok(*available.last().expect("the portable one is always there")),
            Ok(empty) if empty.is_empty() => Ok(*available.last().expect("the portable one is always there")),
            Ok(wanted) => available.iter().copied().find(|isa| isa.name() == wanted).ok_or_else(|| {
                let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
                KernelError::InstructionSet { wanted, available: names.join(", ") }
            }),
        }
    }

    /// Whether this crate's tests emulate it, at some microseconds an instruction.
    #[cfg(test)]
    pub(crate) fn is_emulated(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Isa::Amx && !super::tiles::amx::available();
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The name that `ALIGN_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    /// Whether it has a unit for products of bf16.
    pub fn has_bf16_unit(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => true,
            _ => false,
        }
    }

    /// What multiplies bf16, if this instruction set has a unit for it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            Isa::Avx512Bf16 => Some(Unit::Dot),
            Isa::Amx => Some(Unit::Amx),
            Isa::Portable | Isa::Avx2 | Isa::Avx512 => None,
        }
    }

    /// Terms of bf16 that a product in f32 with bf16 weights takes on the unit, or `None` where it is made of multiply-adds.
    pub fn bf16_terms_of_f32(self) -> Option<usize> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Some(3),
            _ => None,
        }
    }
}

#[cfg(all(test, target_arch = "aarch64"))]
mod tests {
    use super::Isa;

    /// The kernels' tests run on what is available: were NEON not found, they would pass without it.
    #[test]
    fn neon_is_found() {
        assert_eq!(Isa::available(), [Isa::Portable, Isa::Neon]);
    }
}
