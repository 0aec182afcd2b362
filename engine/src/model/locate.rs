//! From what the user calls a model to its directory: a path, or the name of a model in the local Hugging Face cache.
//!
//! The cache (huggingface_hub 2.4): `models--ORG--NAME/refs/main` holds a revision, `snapshots/<revision>/` the files, as links
//! into `blobs/`. Nothing is downloaded.

use super::error::LocateError;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A model directory, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    pub path: PathBuf,
    pub origin: Origin,
}

/// How a model directory was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The user gave its path.
    Directory,
    /// The user gave a name, which the cache has at this revision.
    Cache { name: String, revision: String },
}

impl fmt::Display for ModelDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Directory => write!(f, "{}", self.path.display()),
            Origin::Cache { name, revision } => {
                write!(f, "{name} (local Hugging Face cache, revision {})", &revision[..revision.len().min(12)])
            }
        }
    }
}

/// Finds the model that the user calls `model`: an existing directory first, then a name in the cache.
///
/// # Errors
/// [`LocateError`], with what to do.
pub fn locate(model: &str) -> Result<ModelDir, LocateError> {
    locate_in(model, cache_dir(|name| std::env::var_os(name)))
}

/// The same with the cache at `cache`.
fn locate_in(model: &str, cache: Option<PathBuf>) -> Result<ModelDir, LocateError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(ModelDir { path: path.to_owned(), origin: Origin::Directory });
    }
    if path.exists() {
        return Err(LocateError::NotADirectory { path: path.to_owned() });
    }
    let name = model.to_owned();
    if model.starts_with(['.', '/', '~']) || model.ends_with('/') || model.matches('/').count() > 1 {
        return Err(LocateError::NoDirectory { path: path.to_owned() });
    }
    if !is_model_name(model) {
        return Err(LocateError::Name { name });
    }
    let Some(cache) = cache else { return Err(LocateError::NoCache { name }) };
    let repository = cache.join(format!("models--{}", model.replace('/', "--")));
    if !repository.is_dir() {
        return Err(LocateError::NotCached { name, cache });
    }
    let reference = repository.join("refs").join("main");
    let snapshots = repository.join("snapshots");
    let revision = std::fs::read_to_string(&reference).ok().map(|text| text.trim().to_owned());
    // A revision is a hash: nothing in this file may lead elsewhere.
    let is_hash = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some(revision) = revision.filter(is_hash) else {
        return Err(LocateError::Reference { name, reference, snapshots: directories_in(&snapshots) });
    };
    let snapshot = snapshots.join(&revision);
    if !snapshot.is_dir() {
        return Err(LocateError::Snapshot { name, snapshot });
    }
    Ok(ModelDir { path: snapshot, origin: Origin::Cache { name, revision } })
}

/// Where the cache is, by the variables that huggingface_hub reads. Empty values count as unset.
fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(hub) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
        return Some(hub);
    }
    if let Some(home) = set("HF_HOME") {
        return Some(home.join("hub"));
    }
    let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let cache = cache.or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("huggingface").join("hub"))
}

/// `NAME` or `ORG/NAME` by the hub's rules: letters, digits, `-`, `_`, `.`, no `--` or `..`, neither `-` nor `.` at an end.
fn is_model_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && part.len() <= 96
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !part.contains("--")
            && !part.contains("..")
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    })
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}
