//! LoRA adapters, objectives, optimiser and trainer. It prints nothing.

#![forbid(unsafe_code)]

pub mod adapter;
pub mod objective;
pub mod optim;
pub mod train;
