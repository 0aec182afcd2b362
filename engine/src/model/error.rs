//! What can be wrong with a model's configuration or its folder.

use super::folder::FolderHolds;
use crate::json::JsonError;
use std::path::{Path, PathBuf};

/// The configuration was refused. The message names the file and the key, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("{path}: `{key}` is missing")]
    Missing { path: PathBuf, key: String },
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    Type { path: PathBuf, key: String, expected: &'static str, found: &'static str },
    #[error("{path}: `{key}`: expected {expected}, found {found}")]
    Value { path: PathBuf, key: String, expected: String, found: String },
    #[error("{path}: unknown architecture {found}; supported: {}", .supported.join(", "))]
    Architecture { path: PathBuf, found: String, supported: Vec<&'static str> },
    #[error(
        "{path}: `architectures` is {found}, a model for another task than writing text; expected {expected}, \
         whose weights have the language model's head"
    )]
    Task { path: PathBuf, found: String, expected: &'static str },
    #[error("{path}: there is no such file{holds}")]
    NoConfig { path: PathBuf, holds: FolderHolds },
    #[error("{path}: unknown rope type {found}; supported: {}", .supported.join(", "))]
    RopeType { path: PathBuf, found: String, supported: Vec<&'static str> },
}

/// The model was not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LocateError {
    #[error("{path}: is a file; give the directory of the model{}", beside(.path))]
    NotADirectory { path: PathBuf },
    #[error("{path}: no such directory")]
    NoDirectory { path: PathBuf },
    #[error("{name}: neither a directory nor the name of a model (ORG/NAME)")]
    Name { name: String },
    #[error(
        "{name}: neither a directory nor in the local Hugging Face cache ({}); give a directory, or fetch the model first \
         with `hf download {name}`: nothing is downloaded here", .cache.display()
    )]
    NotCached { name: String, cache: PathBuf },
    #[error("{name}: there is no cache to look in: neither HF_HOME nor HOME is set; give a directory")]
    NoCache { name: String },
    #[error("{name}: {} is missing or damaged; {}", .reference.display(), suggestion(.snapshots))]
    Reference { name: String, reference: PathBuf, snapshots: Vec<PathBuf> },
    #[error("{name}: the cache has no snapshot {}; fetch the model again with `hf download {name}`", .snapshot.display())]
    Snapshot { name: String, snapshot: PathBuf },
}

/// Returns the end of the message about a file that was given as a model. It names the file's directory if that holds a model, or
/// says that GGUF files are not read.
fn beside(path: &Path) -> String {
    if path.extension().is_some_and(|ending| ending == "gguf") {
        return " in the Hugging Face layout (config.json and safetensors): GGUF files are not read".to_owned();
    }
    match path.parent().filter(|parent| parent.join("config.json").is_file()) {
        Some(parent) if parent.as_os_str().is_empty() => ", which is `.`".to_owned(),
        Some(parent) => format!(", {}", parent.display()),
        None => String::new(),
    }
}

fn suggestion(snapshots: &[PathBuf]) -> String {
    match snapshots {
        [] => "fetch the model again with `hf download`".to_owned(),
        [only] => format!("the cache has one snapshot: give its directory, {}", only.display()),
        several => {
            let list: Vec<String> = several.iter().take(5).map(|path| path.display().to_string()).collect();
            format!("the cache has several snapshots, give the directory of one: {}", list.join(", "))
        }
    }
}
