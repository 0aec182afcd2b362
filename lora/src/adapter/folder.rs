//! Finds out what a folder without an adapter holds instead, and which files of a model's folder belong to an adapter.

use super::error::AdapterError;
use align_engine::model::{REFERENCE, folders_with};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The file with the values.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The file with the configuration.
pub const CONFIG: &str = "adapter_config.json";
/// The file with the values in older adapters: a Python pickle. Reading one can run code.
const PICKLE: &str = "adapter_model.bin";
/// The files with the values in mlx-lm's adapters.
const MLX: [&str; 2] = ["adapters.safetensors", "adapters.npz"];

/// What a folder holds instead of an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// Nothing that says what the folder is.
    Nothing,
    /// There is no such folder.
    NoFolder,
    /// The values are a Python pickle.
    Pickle,
    /// An adapter of mlx-lm.
    Mlx,
    /// Folders that hold an adapter.
    Folders {
        /// The number of folders.
        count: usize,
        /// The last one by name, with numbers in names compared by value. Among a run's checkpoints, it is the newest.
        last: PathBuf,
    },
    /// A model.
    Model,
    /// A run that has saved its reference but has no adapter yet.
    UnfinishedRun,
}

impl Instead {
    fn of(dir: &Path) -> Instead {
        let has = |name: &str| dir.join(name).exists();
        if !dir.exists() {
            return Instead::NoFolder;
        }
        if MLX.into_iter().any(has) {
            return Instead::Mlx;
        }
        if has(PICKLE) {
            return Instead::Pickle;
        }
        let mut inside = folders_with(dir, CONFIG);
        match inside.pop() {
            Some(last) => Instead::Folders { count: inside.len() + 1, last },
            None if has("config.json") => Instead::Model,
            None if dir.join(REFERENCE).join(CONFIG).exists() => Instead::UnfinishedRun,
            None => Instead::Nothing,
        }
    }

    /// Returns the end of the error message, which says what to do.
    pub(super) fn hint(&self) -> String {
        match self {
            Instead::Nothing => "; give the folder that PEFT or `train` wrote".to_owned(),
            Instead::NoFolder => {
                ", because there is no such folder; give the folder that PEFT or `train` wrote".to_owned()
            }
            Instead::Pickle => {
                "; its values are in adapter_model.bin, a pickle: load it with PEFT and save it again".to_owned()
            }
            Instead::Mlx => "; this is an adapter in the format of mlx-lm (adapters.safetensors), whose names and \
                             matrices are not PEFT's: merge it with `mlx_lm.fuse` and give the result as the model, or \
                             convert it to PEFT's format"
                .to_owned(),
            Instead::Folders { count: 1, last } => format!("; there is an adapter in {}: give that", last.display()),
            Instead::Folders { count, last } => {
                format!("; there are adapters in {count} folders inside it, the last is {}: give that", last.display())
            }
            Instead::Model => "; this is the folder of a model, not of an adapter: give it as the model".to_owned(),
            Instead::UnfinishedRun => "; this is the folder of a run that has no adapter yet: `reference` in it \
                                       is what the run is compared with"
                .to_owned(),
        }
    }
}

/// Refuses a folder that lacks one of an adapter's files.
///
/// # Errors
/// [`AdapterError::NoFile`], which says what the folder holds instead.
pub(super) fn check(dir: &Path, files: &[&'static str]) -> Result<(), AdapterError> {
    match files.iter().find(|file| !dir.join(file).exists()) {
        None => Ok(()),
        Some(file) => Err(AdapterError::NoFile { dir: dir.to_owned(), file, instead: Instead::of(dir) }),
    }
}

/// An adapter's files in the folder of a model. Other programs apply such an adapter when they load the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayAdapter {
    /// Configuration and values.
    Whole,
    /// Only the configuration: other programs cannot load the folder.
    ConfigAlone,
}

impl StrayAdapter {
    /// Returns the adapter in the folder `model`. `None` if there is no model or no adapter.
    pub fn of(model: &Path) -> Option<StrayAdapter> {
        let has = |name: &str| model.join(name).exists();
        let values = has(WEIGHTS) || has(PICKLE) || MLX.into_iter().any(has);
        (has("config.json") && has(CONFIG)).then_some(if values {
            StrayAdapter::Whole
        } else {
            StrayAdapter::ConfigAlone
        })
    }
}

/// Whether a file is part of an adapter.
pub(super) fn is_adapters(name: &OsStr) -> bool {
    name == CONFIG || name == WEIGHTS || name == PICKLE || MLX.into_iter().any(|file| name == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_a_run_is_not_offered_as_its_adapter() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("run");
        let adapter = |name: &str| {
            std::fs::create_dir_all(dir.join(name)).unwrap();
            std::fs::write(dir.join(name).join(CONFIG), "{}").unwrap();
        };
        adapter(REFERENCE);
        assert_eq!(Instead::of(&dir), Instead::UnfinishedRun);
        assert_eq!(Instead::of(place.path()), Instead::Nothing);
        ["checkpoint-50", "checkpoint-100"].into_iter().for_each(adapter);
        let last = dir.join("checkpoint-100");
        assert_eq!(Instead::of(&dir), Instead::Folders { count: 2, last });
    }
}
