//! The instruction sets of 64-bit Arm.

use crate::cpu::unit::Unit;
use crate::cpu::vectors::{VectorTask, neon, portable};

/// An instruction set that the kernels have code for. Outside this crate, the values come only from [`Isa::available`] and
/// [`Isa::chosen`] (the variants are `non_exhaustive`), so this machine has every set that a value names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The instructions that every target has.
    Portable,
    /// NEON: 4 lanes.
    #[non_exhaustive]
    Neon,
}

impl Isa {
    /// Lists the instruction sets that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Portable];
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Isa::Neon);
        }
        found
    }

    /// The name that selects this set in `ALIGN_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
        }
    }

    /// Always `None`: no unit that multiplies bf16 is used on Arm. bf16 is widened to f32 for multiply-adds.
    pub(crate) fn unit(self) -> Option<Unit> {
        None
    }

    /// Runs `task` compiled for this instruction set.
    pub(crate) fn dispatch<T: VectorTask>(self, task: T) -> T::Output {
        match self {
            // SAFETY: the portable code needs no extension.
            Isa::Portable => unsafe { task.run::<portable::Portable>() },
            // SAFETY: `Isa::available` found the features that the function enables; nothing else makes this value.
            Isa::Neon => unsafe { neon::run(task) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Isa;

    /// The kernels' tests run on the sets that are available. If NEON were not found, they would pass without testing it.
    #[test]
    fn neon_is_found() {
        assert_eq!(Isa::available(), [Isa::Portable, Isa::Neon]);
    }
}
