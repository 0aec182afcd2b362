//! Frozen weights on disk: safetensors files, mapped and used in place, and a writer for new ones.
//!
//! A file from outside can cause neither a panic nor an allocation larger than the file justifies, because headers and indices
//! are checked against the file before use.

mod error;
mod files;
mod finite;
mod frozen;
mod header;
mod index;
mod quantised;
mod read_ahead;
mod safetensors;
mod tensor;
#[cfg(test)]
mod tests;
mod writer;

pub use self::error::{HeaderFault, IndexFault, LoadError, WriteError};
pub use self::files::{ValueCheck, WeightFiles};
pub use self::frozen::BASE_WEIGHTS;
pub use self::frozen::{Frozen, FrozenVector};
pub use self::quantised::Quantised;
pub use self::read_ahead::{Pages, ReadAhead, Then};
pub use self::safetensors::{MappedFile, SafetensorsFile};
pub use self::tensor::{TensorInfo, widen};
pub use self::writer::{SafetensorsWriter, TensorSpec};
pub use ::safetensors::Dtype;
