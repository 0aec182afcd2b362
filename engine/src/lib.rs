//! The engine: frozen weights on disk, model families, a reverse-mode tape whose nodes are the transformer's own fused ops,
//! generation. It knows nothing of text, preferences or the command line.

pub mod adapters;
pub mod autograd;
pub mod bounded_read;
mod error;
pub mod generate;
pub mod json;
pub mod json_edit;
mod listing;
pub mod model;
pub mod new_file;
pub mod ops;
pub mod param;
pub mod pass;
pub mod rows;
pub mod weights;

pub use error::EngineError;
pub use json::JsonError;
