//! The commands of the tool. They need NVIDIA's packages, which are for Linux on x86-64.

pub(crate) mod assemble;
pub(crate) mod compile;
mod nvrtc;
mod wheels;
