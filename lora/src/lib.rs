//! LoRA adapters, chat templates and tokenisation, preference data, objectives, optimiser and trainer. It prints nothing.

pub mod adapter;
pub mod data;
pub mod objective;
pub mod optim;
pub mod train;
pub mod user_cache;
