//! Adapters, preference data, objectives, optimiser and trainer.

pub mod data;
pub mod objective;
