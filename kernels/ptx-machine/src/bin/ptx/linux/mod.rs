//! What the tool does. NVIDIA's compiler comes from packages for Linux on x86-64.

pub(crate) mod assemble;
pub(crate) mod compile;
mod nvrtc;
mod wheels;
