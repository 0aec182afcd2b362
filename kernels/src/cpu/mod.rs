//! What the processor can do: instruction sets found at run time, and vector code written once for all of them.

pub(crate) mod blocks;
mod isa;
pub mod simd;
pub(crate) mod tasks;

pub use isa::Isa;
