//! The engine.

pub mod autograd;
