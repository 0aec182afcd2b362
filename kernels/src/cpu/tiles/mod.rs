//! The matrix unit (AMX): finding it, the layout of its operands, and blocks of 32 x 32 sums.

pub(crate) mod amx;
pub(crate) mod microkernel;
pub(crate) mod pack;
pub(crate) mod vector;
