//! The TOML file of a run. `--config` reads it, `train` writes it into its output directory, and the commands that use the
//! run's adapter take options from it. Its keys are the flags' names.

mod of_run;
mod read;
mod write;

pub(crate) use of_run::{OfRun, options_of_run};
pub(crate) use read::{Expanded, expand};
pub(crate) use write::{NamedFiles, resolved, write};
