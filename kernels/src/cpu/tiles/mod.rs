//! Products of bf16 in blocks of 32 x 32 sums: the units that make them, the layout of their operands, vectors in between.

pub(crate) mod amx;
pub(crate) mod microkernel;
pub(crate) mod pack;
pub(crate) mod vector;
