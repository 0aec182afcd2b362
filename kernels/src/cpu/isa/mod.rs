//! Instruction sets, detected at run time. Each architecture has a file with the sets that the kernels have code for.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "portable.rs")]
mod native;

pub use native::Isa;

use super::vectors::burst::MultiplyAdd;
use crate::{KernelError, Result};

impl Isa {
    /// Returns the fastest set that this machine has, or the one that the variable `ALIGN_CPU` names.
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

    /// Whether the set has a unit that multiplies bf16.
    pub fn has_bf16_unit(self) -> bool {
        self.unit().is_some()
    }

    /// How many bf16 terms the unit splits an f32 number into, in a product with bf16 weights. `None` if multiply-adds compute
    /// such a product.
    pub fn bf16_terms_of_f32(self) -> Option<usize> {
        self.unit()?.terms_of_f32()
    }

    /// Whether this crate's tests emulate the unit. An emulated instruction takes some microseconds.
    #[cfg(test)]
    pub(crate) fn is_emulated(self) -> bool {
        self.unit().is_some_and(|unit| unit.is_emulated())
    }

    /// Runs multiply-adds for about a millisecond, and returns how many floating-point operations they were.
    pub fn fma_burst(self) -> f64 {
        self.dispatch(MultiplyAdd { rounds: 200_000 })
    }

    /// Runs products of bf16 on the unit for about a millisecond, and returns how many floating-point operations they were.
    /// Returns `None` if there is no such unit.
    pub fn bf16_burst(self) -> Option<f64> {
        self.unit().map(|unit| unit.burst())
    }
}
