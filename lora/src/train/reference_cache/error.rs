//! Why a cache cannot be used, and notes about one in use.

use crate::train::size::Size;
use align_kernels::KernelError;
use std::io;
use std::path::PathBuf;

/// Why a cache cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum CacheError {
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{}: is not a regular file; remove it, or name another place", path.display())]
    NotAFile { path: PathBuf },
    #[error(
        "the file of this program cannot be read, so nothing says which build has computed a cached number: {source}"
    )]
    Program { source: io::Error },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Something about the cache that the user should know. A note never ends a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum CacheNote {
    /// The file has no sound head, or the head of another fingerprint.
    #[error("reference cache: {} is damaged at its start: its {bytes} are dropped", path.display())]
    DamagedStart { path: PathBuf, bytes: Size },
    /// Some records do not match their checksums, or an interrupted run left part of a record.
    #[error(
        "reference cache: {} is damaged or cut short: {kept} answers of it are used, its last {bytes} are dropped", path.display()
    )]
    DamagedEnd { path: PathBuf, kept: u64, bytes: Size },
    /// A record was sound when the file was opened and is damaged now.
    #[error("reference cache: {} changes while it is used: it is not read any more", path.display())]
    DamagedMeanwhile { path: PathBuf },
    /// Another file has some of the rows of this run, computed under other conditions.
    #[error(
        "reference cache: these rows are in {}, but for other numbers ({}): they are computed anew", path.display(), .differs.join(", ")
    )]
    OtherFingerprint { path: PathBuf, differs: Vec<&'static str> },
    #[error("reference cache: another run writes {}: this one reads it, and keeps what is new in memory", path.display())]
    InUse { path: PathBuf },
    #[error("reference cache: cannot lock {} ({source}): this run reads it, and keeps what is new in memory", path.display())]
    NoLock { path: PathBuf, source: io::Error },
    #[error("reference cache: cannot write {} ({source}): this run keeps what is new in memory", path.display())]
    Full { path: PathBuf, source: io::Error },
    #[error("reference cache: the memory for it, {limit}, is full: further answers are computed each time they come")]
    MemoryFull { limit: Size },
    #[error(
        "reference cache: the numbers in {} are not those that the model gives: all of them are dropped and computed anew",
        path.display()
    )]
    Disagrees { path: PathBuf },
    /// The run continues with the weights that the file has now.
    #[error(
        "warning: {} has changed since the run began: this run's numbers from here on are of changed weights, and its result with them; \
         start it again. Nothing is read from the reference cache or kept any more", path.display()
    )]
    WeightsChanged { path: PathBuf },
    #[error("reference cache: {} has reached its limit of {limit}: what is new stays in memory", path.display())]
    FileFull { path: PathBuf, limit: Size },
    #[error("reference cache: {files} old files ({bytes}) were removed from {}", folder.display())]
    Pruned { folder: PathBuf, files: u64, bytes: Size },
}
