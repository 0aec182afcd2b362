//! The TOML file of a run: `--config` reads it, and `train` writes it into its output directory. Its keys are the flags' names.

mod read;
mod write;

pub use read::{Expanded, expand};
pub use write::{NamedFiles, resolved, write};
