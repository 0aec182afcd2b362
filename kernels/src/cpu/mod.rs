//! What the processor can do: instruction sets found at run time, and vector code written once for all of them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod blocks;
mod isa;
pub mod simd;
pub(crate) mod tasks;

pub use isa::Isa;
