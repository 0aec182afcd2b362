//! What lies in a folder that should be an adapter's, and which files of a model's folder are an adapter's.

use super::error::AdapterError;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The file of the values.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The file of the configuration.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The file of the values in older adapters: a Python pickle, which runs code when it is read.
const PICKLE: &str = "adapter_model.bin";
/// The files of the values in mlx-lm's adapters.
const MLX: [&str; 2] = ["adapters.safetensors", "adapters.npz"];

/// What a folder holds in place of an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    Nothing,
    /// There is no such folder.
    NoFolder,
    /// The values as a Python pickle.
    Pickle,
    /// An adapter of mlx-lm.
    Mlx,
    /// Folders that hold an adapter: how many, and the last.
    Folders {
        count: usize,
        last: PathBuf,
    },
    /// A model.
    Model,
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
        let mut inside: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join(CONFIG).exists())
            .collect();
        // checkpoint-50 before checkpoint-100
        inside.sort_by_cached_key(|path| (number_at_the_end(path), path.clone()));
        match inside.pop() {
            Some(last) => Instead::Folders { count: inside.len() + 1, last },
            None if has("config.json") => Instead::Model,
            None => Instead::Nothing,
        }
    }

    /// What to do, as the end of a message.
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
        }
    }
}

/// The number that a folder's name ends in.
fn number_at_the_end(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Refuses a folder that lacks one of an adapter's files.
///
/// # Errors
/// [`AdapterError::NoFile`] with what is there instead.
pub(super) fn check(dir: &Path, files: &[&'static str]) -> Result<(), AdapterError> {
    match files.iter().find(|file| !dir.join(file).exists()) {
        None => Ok(()),
        Some(file) => Err(AdapterError::NoFile { dir: dir.to_owned(), file, instead: Instead::of(dir) }),
    }
}

/// An adapter's files in the folder of a model. Other programs apply such an adapter whenever they load the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayAdapter {
    /// Configuration and values.
    Whole,
    /// The configuration alone: other programs cannot load the folder.
    ConfigAlone,
}

impl StrayAdapter {
    /// That of the folder `model`, if it holds one.
    pub fn of(model: &Path) -> Option<StrayAdapter> {
        let has = |name: &str| model.join(name).exists();
        let values = has(WEIGHTS) || has(PICKLE) || MLX.into_iter().any(has);
        has(CONFIG).then_some(if values { StrayAdapter::Whole } else { StrayAdapter::ConfigAlone })
    }
}

/// Whether a file is part of an adapter.
pub(super) fn is_adapters(name: &OsStr) -> bool {
    name == CONFIG || name == WEIGHTS || name == PICKLE || MLX.into_iter().any(|file| name == file)
}
