//! The instruction set of architectures that the kernels have no special code for.

use crate::cpu::unit::Unit;
use crate::cpu::vectors::{VectorTask, portable};

/// An instruction set that the kernels have code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The instructions that every target has.
    Portable,
}

impl Isa {
    /// Lists the instruction sets that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        vec![Isa::Portable]
    }

    /// The name that selects this set in `ALIGN_CPU`.
    pub fn name(self) -> &'static str {
        "portable"
    }

    /// Always `None`: no unit multiplies bf16 here. bf16 is widened to f32 for multiply-adds.
    pub(crate) fn unit(self) -> Option<Unit> {
        None
    }

    /// Runs `task` compiled for this instruction set.
    pub(crate) fn dispatch<T: VectorTask>(self, task: T) -> T::Output {
        // SAFETY: the portable code needs no extension.
        unsafe { task.run::<portable::Portable>() }
    }
}
