//! The commands of the tool. NVIDIA's packages and the machine are for Linux on x86-64.

pub(crate) mod assemble;
pub(crate) mod compile;
pub(crate) mod driver;
mod nvrtc;
mod wheels;
