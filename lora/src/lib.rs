//! LoRA adapters, objectives, optimiser and trainer. It prints nothing.

pub mod adapter;
pub mod objective;
pub mod optim;
pub mod train;
