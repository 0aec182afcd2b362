//! What the processor can do: instruction sets found at run time, and vector code written once for all of them.

pub(crate) mod blocks;
mod burst;
pub(crate) mod convert;
mod free_memory;
mod isa;
pub mod simd;
pub(crate) mod tasks;
pub(crate) mod team;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

pub use free_memory::free_bytes;
pub use isa::Isa;
