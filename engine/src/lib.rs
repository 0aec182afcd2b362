//! The engine.

pub mod autograd;
mod json;
pub mod model;
pub mod weights;

pub use json::JsonError;
