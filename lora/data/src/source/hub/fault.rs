//! Why the files of a data set of the Hub cannot be found.

use std::path::PathBuf;

/// Maximum number of files that a message names.
const SHOWN: usize = 3;

/// Why the files of a data set cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubFault {
    /// The environment does not say where the cache is.
    #[error("no such file, and neither HF_HOME nor HOME is set, so there is no Hugging Face cache to find it in")]
    NoCache,
    /// The data set is not in the cache.
    #[error("no such file, and no such data set in the local Hugging Face cache ({cache}); fetch it: {fetch}")]
    NotCached {
        /// The command that fetches it.
        fetch: String,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// The revision is not in the cache.
    #[error("the local Hugging Face cache does not have its revision `{revision}`; fetch it: {fetch}")]
    NoRevision {
        /// The command that fetches it.
        fetch: String,
        /// The revision.
        revision: String,
    },
    /// The YAML at the head of README.md cannot be read.
    #[error(
        "the YAML at the head of its README.md cannot be read: {message}; name its files by their paths in {folder}"
    )]
    FrontMatter {
        /// What is wrong.
        message: String,
        /// The folder of the snapshot.
        folder: PathBuf,
    },
    /// There are several configs, and none was chosen.
    #[error("has several configs, and one is needed: {}; give {name}:{}", all.join(", "), all[0])]
    Configs {
        /// `ORG/NAME`.
        name: String,
        /// Names of the configs.
        all: Vec<String>,
    },
    /// The config does not exist.
    #[error("has no config `{config}`; there are: {}", if all.is_empty() { "none".to_owned() } else { all.join(", ") })]
    NoConfig {
        /// The config.
        config: String,
        /// The existing configs.
        all: Vec<String>,
    },
    /// The split does not exist.
    #[error("has no split `{split}`; there are: {}; give {name}#{}, or fetch the whole: {fetch}", all.join(", "), all[0])]
    NoSplit {
        /// `ORG/NAME`, with the config.
        name: String,
        /// The split.
        split: String,
        /// The existing splits.
        all: Vec<String>,
        /// The command that fetches the whole data set.
        fetch: String,
    },
    /// No file holds rows.
    #[error("has no file of rows in {folder}, which may be incomplete; fetch the whole: {fetch}")]
    NoFiles {
        /// The command that fetches the whole data set.
        fetch: String,
        /// The folder of the snapshot.
        folder: PathBuf,
    },
    /// Files of the split are missing.
    #[error("only a part of its split `{split}` is in {folder}: {}; fetch the whole: {fetch}", missing(absent))]
    Absent {
        /// The split.
        split: String,
        /// The files, as paths in the snapshot.
        absent: Vec<String>,
        /// The folder of the snapshot.
        folder: PathBuf,
        /// The command that fetches the whole data set.
        fetch: String,
    },
}

/// Names the first missing files and counts the others.
fn missing(absent: &[String]) -> String {
    let shown = absent[..absent.len().min(SHOWN)].join(", ");
    match absent.len() {
        1 => format!("{shown} is missing"),
        ..=SHOWN => format!("{shown} are missing"),
        all => format!("{shown} and {} more are missing", all - SHOWN),
    }
}
