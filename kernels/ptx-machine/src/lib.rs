//! Runs PTX on the CPU, to check CUDA kernels and to count their work without a GPU.
//!
//! The PTX that ships is parsed, lowered to instructions over the 32 lanes of a warp, and run block by block. Checkers find
//! faults that a card may not show: accesses outside an allocation, reads of bytes that nobody wrote, races, and lanes that do
//! not meet where they must. Counters say exactly how many instructions, sectors of memory and wavefronts of shared memory a
//! launch needs.
//!
//! The crate is for Linux on x86-64. On other systems it is empty.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod block;
mod counters;
pub mod driver;
mod error;
mod forms;
mod launch;
mod lower;
mod memory;
mod model;
mod module;
mod parse;
mod report;
pub mod sources;
mod start;
mod warp;

pub use counters::{Counters, Counts, SECTOR};
pub use error::{LaunchError, PtxError};
pub use forms::has_avx2;
pub use launch::{Arrival, Checks, Launch, Outcome, Schedule, Settings};
pub use lower::Kernel;
pub use memory::{Memory, MemoryError};
pub use model::{CARDS, Card, Estimate, Part};
pub use module::{LoadError, Module};
pub use report::{Check, Report};
pub use warp::LANES;
