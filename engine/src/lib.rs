//! The engine.

pub mod autograd;
mod json;
pub mod weights;

pub use json::JsonError;
