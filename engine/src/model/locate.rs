//! Finds the directory of a model that the user names: by its path, or by its name in the local Hugging Face cache.
//!
//! huggingface_hub 2.4 lays out the cache like this: `models--ORG--NAME/refs/main` holds the hash of a revision, and
//! `models--ORG--NAME/snapshots/<revision>/` holds that revision's files, as links into `models--ORG--NAME/blobs/`. There, large
//! files are in turn links into a store that all models share. This module downloads nothing.

use super::error::LocateError;
use crate::bounded_read::read_regular;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Largest size of `refs/main` that is read, in bytes. The file holds a revision's hash, which has 40 characters.
const MOST_REVISION: u64 = 1024;

/// A model directory, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDir {
    /// The folder that holds the model's files. For a model in the cache, this is a snapshot.
    pub path: PathBuf,
    /// What the user gave: a path, or a name in the cache.
    pub origin: Origin,
}

/// How a model directory was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "a variant's text says what its fields are")]
pub enum Origin {
    /// The user gave its path.
    Directory,
    /// The user gave a name, and the cache holds that model at this revision.
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

/// Finds the model that the user calls `model`. If `model` is an existing directory, returns that directory. Otherwise looks for
/// a model of that name in the cache.
///
/// # Errors
/// [`LocateError`], which says what to do.
pub fn locate(model: &str) -> Result<ModelDir, LocateError> {
    locate_in(model, hub_cache())
}

/// Returns the path of the local Hugging Face cache, which need not exist. `None` if no environment variable says where it is.
pub fn hub_cache() -> Option<PathBuf> {
    cache_dir(|name| std::env::var_os(name))
}

/// Does the same as [`locate`], with the cache at `cache`.
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
    if !is_hub_name(model) {
        return Err(LocateError::Name { name });
    }
    let Some(cache) = cache else { return Err(LocateError::NoCache { name }) };
    let repository = cache.join(format!("models--{}", model.replace('/', "--")));
    if !repository.is_dir() {
        return Err(LocateError::NotCached { name, cache });
    }
    let reference = repository.join("refs").join("main");
    let snapshots = repository.join("snapshots");
    let revision = read_regular(&reference, MOST_REVISION).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let revision = revision.map(|text| text.trim().to_owned());
    // Only hexadecimal digits are accepted, so that the content of the file cannot lead outside `snapshots`.
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

/// Returns the path of the cache, from the environment variables that huggingface_hub reads. Empty values count as unset.
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

/// Whether each part of `NAME` or `ORG/NAME` follows the hub's rules for models and data sets. A part must have 1 to 96
/// characters, each of them a letter, a digit, `-`, `_` or `.`. It must not contain `--` or `..`, and must not begin or end with
/// `-` or `.`. Does not check how many parts there are.
pub fn is_hub_name(name: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Makes a cache with the model `org/name` at [`REVISION`].
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::create_dir_all(repository.join("snapshots").join(REVISION)).unwrap();
        fs::write(repository.join("refs/main"), REVISION).unwrap();
        cache
    }

    fn find(model: &str, cache: &Path) -> Result<ModelDir, LocateError> {
        locate_in(model, Some(cache.to_owned()))
    }

    #[test]
    fn a_directory_comes_before_a_name() {
        let cache = cache();
        let path = cache.path().to_str().unwrap();
        let found = find(path, cache.path()).unwrap();
        assert_eq!(found, ModelDir { path: cache.path().to_owned(), origin: Origin::Directory });
        assert_eq!(found.to_string(), path);
    }

    #[test]
    fn a_name_is_found_in_the_cache_at_its_main_revision() {
        let cache = cache();
        let found = find("org/name", cache.path()).unwrap();
        assert_eq!(found.path, cache.path().join("models--org--name/snapshots").join(REVISION));
        assert_eq!(found.to_string(), "org/name (local Hugging Face cache, revision 0123456789ab)");
        fs::create_dir_all(cache.path().join("models--gpt2/snapshots/ff")).unwrap();
        fs::create_dir_all(cache.path().join("models--gpt2/refs")).unwrap();
        fs::write(cache.path().join("models--gpt2/refs/main"), "ff\n").unwrap();
        assert!(find("gpt2", cache.path()).is_ok());
    }

    #[test]
    fn what_is_not_there_is_named_with_what_to_do() {
        let cache = cache();
        let file = cache.path().join("weights.gguf");
        fs::write(&file, "").unwrap();
        let message = |model: &str| find(model, cache.path()).unwrap_err().to_string();
        assert!(message(file.to_str().unwrap()).contains("is a file; give the directory"));
        for path in ["./model", "/no/such/model", "models/llama/", "a/b/c", "../name", "~/model"] {
            assert!(message(path).contains("no such directory"), "{path}: {}", message(path));
        }
        for name in ["", "org/..name", "org/na me", "org--x/name", "org/-name", "org/name.", "org/n\0"] {
            assert!(message(name).contains("neither a directory nor the name of a model"), "{name}: {}", message(name));
        }
        let missing = message("org/other");
        assert!(
            missing.contains("hf download org/other") && missing.contains(cache.path().to_str().unwrap()),
            "{missing}"
        );
        assert!(locate_in("org/name", None).unwrap_err().to_string().contains("neither HF_HOME nor HOME"));
    }

    #[test]
    fn a_damaged_cache_offers_its_snapshots_and_leads_nowhere_else() {
        let cache = cache();
        let repository = cache.path().join("models--org--name");
        let message = || find("org/name", cache.path()).unwrap_err().to_string();
        for content in ["", "../../../../etc", "main", "abc/def", "abc\0"] {
            fs::write(repository.join("refs/main"), content).unwrap();
            let text = message();
            assert!(text.contains("refs/main is missing or damaged") && text.contains("one snapshot"), "{text}");
            assert!(text.contains(REVISION), "{text}");
        }
        fs::create_dir(repository.join("snapshots/ffff")).unwrap();
        fs::remove_file(repository.join("refs/main")).unwrap();
        assert!(message().contains("several snapshots"));
        fs::write(repository.join("refs/main"), "eeee").unwrap();
        assert!(message().contains("no snapshot") && message().contains("hf download org/name"));
    }

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let dir = |set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            cache_dir(find).map(|path| path.to_str().unwrap().to_owned())
        };
        let home = ("HOME", "/home/u");
        assert_eq!(dir(&[]), None);
        assert_eq!(dir(&[home]).unwrap(), "/home/u/.cache/huggingface/hub");
        assert_eq!(dir(&[home, ("XDG_CACHE_HOME", "/x")]).unwrap(), "/x/huggingface/hub");
        assert_eq!(dir(&[home, ("XDG_CACHE_HOME", "relative")]).unwrap(), "/home/u/.cache/huggingface/hub");
        assert_eq!(dir(&[home, ("HF_HOME", "/h")]).unwrap(), "/h/hub");
        assert_eq!(dir(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]).unwrap(), "/old");
        assert_eq!(dir(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]).unwrap(), "/new");
        assert_eq!(dir(&[home, ("HF_HUB_CACHE", "")]).unwrap(), "/home/u/.cache/huggingface/hub");
    }
}
