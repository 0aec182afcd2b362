//! Finds out what a folder without config.json holds if a user gives it as a model, so that the message can say what to give
//! instead.

use crate::listing::{exists, names_in};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Maximum number of folders to look into: a Hugging Face cache may hold thousands.
const LOOKED_INTO: usize = 1000;
/// The folder of a run that holds its reference: the adapter that answers are compared with, not the adapter that the run
/// trained.
pub const REFERENCE: &str = "reference";
/// Maximum number of folders that a message names.
const SHOWN: usize = 5;

/// What a folder without config.json holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum FolderHolds {
    /// An adapter, with the base that its adapter_config.json names.
    Adapter { base: Option<String> },
    /// Folders that hold models, adapters, or both.
    Folders { models: Vec<PathBuf>, adapters: Vec<PathBuf> },
    /// A file in a format that is not read.
    OtherFormat { file: String },
    /// No part of a model.
    Nothing,
}

impl fmt::Display for FolderHolds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |folders: &[PathBuf]| {
            let shown: Vec<String> = folders.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
            let more = folders.len().saturating_sub(SHOWN);
            shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
        };
        match self {
            FolderHolds::Adapter { base: Some(base) } => write!(f, "; the folder holds an adapter, of {base}"),
            FolderHolds::Adapter { base: None } => f.write_str("; the folder holds an adapter"),
            FolderHolds::Folders { models, adapters } if models.is_empty() => {
                write!(f, "; folders in it hold adapters: {}", list(adapters))
            }
            FolderHolds::Folders { models, .. } => {
                write!(f, "; folders in it hold models: {}. Give one of them", list(models))
            }
            FolderHolds::OtherFormat { file } => write!(
                f,
                "; {file} is of a format that is not read: give a model directory in the Hugging Face layout \
                 (config.json and safetensors)"
            ),
            FolderHolds::Nothing => f.write_str("; give a model directory in the Hugging Face layout"),
        }
    }
}

/// Returns what `dir` holds. `None` if it has a config.json.
pub(super) fn instead_of_config(dir: &Path) -> Option<FolderHolds> {
    if exists(&dir.join("config.json")) {
        return None;
    }
    if let Some(base) = adapter_in(dir) {
        return Some(FolderHolds::Adapter { base });
    }
    let (models, adapters) = (folders_with(dir, "config.json"), folders_with(dir, "adapter_config.json"));
    if !models.is_empty() || !adapters.is_empty() {
        return Some(FolderHolds::Folders { models, adapters });
    }
    let other = [".gguf", ".ggml", ".pth", ".pt", ".bin", ".h5", ".onnx", ".mlmodel"];
    let file = names_in(dir).into_iter().find(|name| other.iter().any(|ending| name.ends_with(ending)));
    Some(file.map_or(FolderHolds::Nothing, |file| FolderHolds::OtherFormat { file }))
}

/// Returns folders in `dir`, or one level deeper, that hold a file of this name. Sorts them by name, with numbers in a name by
/// value, so that the last checkpoint of a run comes last. Skips the reference of a run. Looks into at most 1000 folders.
pub fn folders_with(dir: &Path, file: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut looked_into = 0;
    for folder in folders_in(dir) {
        let deeper = if folder.join(file).is_file() { Vec::new() } else { folders_in(&folder) };
        for folder in std::iter::once(folder).chain(deeper) {
            looked_into += 1;
            if looked_into > LOOKED_INTO {
                return found;
            }
            if folder.join(file).is_file() {
                found.push(folder);
            }
        }
    }
    found
}

/// Returns the base that the adapter's config names, or `Some(None)` if it names none. `None` if `dir` holds no adapter. Reads
/// nothing else from the config.
fn adapter_in(dir: &Path) -> Option<Option<String>> {
    let path = dir.join("adapter_config.json");
    if !exists(&path) {
        return None;
    }
    let config = crate::json::read_object(&path).ok();
    let base = config.and_then(|config| match config.get("base_model_name_or_path") {
        Some(Value::String(base)) if !base.is_empty() => Some(crate::json::shorten(base, 200)),
        _ => None,
    });
    Some(base)
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(LOOKED_INTO);
    let mut names: Vec<OsString> =
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    names.retain(|name| name != REFERENCE);
    names.sort_by_cached_key(|name| in_order(&name.to_string_lossy()));
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Splits a name into text and numbers for sorting, so that `checkpoint-50` comes before `checkpoint-100`.
fn in_order(name: &str) -> Vec<(String, u64)> {
    let mut pieces: Vec<(String, u64)> = vec![(String::new(), 0)];
    let mut in_number = false;
    for character in name.chars() {
        let (text, number) = pieces.last_mut().expect("there is one from the start");
        match character.to_digit(10) {
            Some(digit) => *number = number.saturating_mul(10).saturating_add(u64::from(digit)),
            None if in_number => pieces.push((character.to_string(), 0)),
            None => text.push(character),
        }
        in_number = character.is_ascii_digit();
    }
    pieces
}
