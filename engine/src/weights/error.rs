//! What can be wrong with weights on disk.

use super::quantised::Quantised;
use crate::json::{JsonError, shorten};
use align_kernels::KernelError;
use std::io;
use std::path::PathBuf;

/// The weights were refused. The message names the file, and the tensor if the fault is in one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LoadError {
    #[error("{path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{path}: is not a regular file")]
    NotAFile { path: PathBuf },
    #[error(
        "{dir}: holds neither model.safetensors nor model.safetensors.index.json; \
         give a model directory in the Hugging Face layout{}", other_format(.found)
    )]
    NoWeights { dir: PathBuf, found: Option<String> },
    #[error("{path}: not a sound safetensors file: {fault}; fetch or convert it again")]
    Header { path: PathBuf, fault: HeaderFault },
    #[error("{path}: {} in the index of shards: {}; fetch the checkpoint again", count(.faults.len(), "fault"), list(.faults))]
    Index { path: PathBuf, faults: Vec<IndexFault> },
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(
        "{path}: no tensor `{name}`, config.json implies one of shape {want:?}; \
         the weights and config.json are from different models"
    )]
    Missing { path: PathBuf, name: String, want: Vec<usize> },
    /// A tensor is missing because the index of shards is wrong.
    #[error(
        "{path}: no shard that it lists holds `{name}`; {} in the index of shards: {}; fetch the checkpoint again",
        count(.faults.len(), "fault"), list(.faults)
    )]
    MissingInShards { path: PathBuf, name: String, faults: Vec<IndexFault> },
    #[error(
        "{path}: no `{name}`, and config.json does not tie the output head to the embedding (`tie_word_embeddings`): \
         these are the weights of a model without its language model's head, which gives no log-probs"
    )]
    NoHead { path: PathBuf, name: String },
    #[error(
        "{path}: no tensor `{name}`, but `{found}`: the names hold `{part}`, which {by} adds; \
         unwrap the model in the program that saved it and save it again, or take `{part}` out of the names"
    )]
    Wrapped { path: PathBuf, name: String, found: String, part: &'static str, by: &'static str },
    #[error(
        "{path}: no tensor `{name}`, but `{found}`: the names begin with `{prefix}`, which this model's do not; \
         save the language model alone, or take `{prefix}` out of the names"
    )]
    OtherPrefix { path: PathBuf, name: String, found: String, prefix: String },
    #[error(
        "{path}: the weights are quantised ({}): `{}` is {} {:?}; use the unquantised model, in bf16",
        method.as_deref().map_or_else(|| .quantised.format.to_string(), str::to_owned),
        shorten(&.quantised.tensor, 200), .quantised.dtype, .quantised.shape
    )]
    Quantised {
        path: PathBuf,
        quantised: Box<Quantised>,
        /// The method that config.json names.
        method: Option<String>,
    },
    #[error(
        "{path}: tensor `{name}` is {got:?}, config.json implies {want:?}; the weights and config.json are from different models"
    )]
    Shape { path: PathBuf, name: String, got: Vec<usize>, want: Vec<usize> },
    #[error("{path}: `{name}` is stored as {got}; supported: F32, F16, BF16. Save the model in one of them first")]
    Dtype { path: PathBuf, name: String, got: String },
    #[error(
        "{path}: `{name}` holds {value} at element {element}; the weights are damaged or were saved from a run that diverged"
    )]
    NonFinite { path: PathBuf, name: String, element: usize, value: f32 },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// What is wrong with the header of a safetensors file. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum HeaderFault {
    #[error("it is {bytes} bytes long, shorter than the 8 bytes that give the header's length")]
    TooShort { bytes: usize },
    #[error(
        "the header claims {claimed} bytes, the file has {available} after its first 8 (and the format allows {limit})"
    )]
    Length { claimed: u64, available: usize, limit: usize },
    #[error("the header is not UTF-8 from byte {at} on")]
    Utf8 { at: usize },
    #[error("the header is broken JSON: {reason}")]
    Json { reason: String },
    #[error("tensor `{name}` is listed twice")]
    Duplicate { name: String },
    #[error("a tensor has a name of {bytes} bytes or with control characters: {shown:?}")]
    Name { bytes: usize, shown: String },
    #[error("tensor `{name}` has {dimensions} dimensions")]
    Dimensions { name: String, dimensions: usize },
    #[error("tensor `{name}` has the unknown dtype {dtype:?}")]
    Dtype { name: String, dtype: String },
    #[error("tensor `{name}`: shape {shape:?} has more bytes than any file")]
    Overflow { name: String, shape: Vec<u64> },
    #[error("tensor `{name}`: shape {shape:?} of {dtype} takes {want} bytes, its offsets span {got}")]
    Span { name: String, dtype: String, shape: Vec<u64>, want: u64, got: u64 },
    #[error("tensor `{name}`: offsets {begin}..{end} run backwards")]
    Backwards { name: String, begin: u64, end: u64 },
    #[error("tensor `{name}` overlaps another: it begins at {begin}, the one before it ends at {before}")]
    Overlap { name: String, begin: u64, before: u64 },
    #[error("{} bytes before tensor `{name}` belong to no tensor", .begin - .before)]
    Hole { name: String, begin: u64, before: u64 },
    #[error("truncated: tensor `{name}` ends at byte {end} of the data, the file holds {available}")]
    Truncated { name: String, end: u64, available: u64 },
    #[error("{} bytes after the last tensor belong to no tensor", .available - .end)]
    Trailing { end: u64, available: u64 },
}

/// What is wrong with `model.safetensors.index.json` or with a shard that it names. A fault is tolerated if it is clear which
/// tensors are meant and the model's tensors are complete.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum IndexFault {
    #[error("`weight_map` is missing or not an object of tensor names to file names")]
    NoWeightMap,
    #[error("`{tensor}` is mapped to {found}, expected a file name")]
    NotAString { tensor: String, found: &'static str },
    #[error("tensor `{tensor}` is listed twice")]
    Duplicate { tensor: String },
    #[error("`{tensor}` must be mapped to the plain name of a file in the directory, not to {shard:?}")]
    ShardName { tensor: String, shard: String },
    #[error("shard {shard} is missing")]
    MissingShard { shard: String },
    #[error("shard {shard} is in the directory but not in the index")]
    ExtraShard { shard: String },
    #[error("`{tensor}` is listed in {shard}, which does not hold it")]
    NotInShard { tensor: String, shard: String },
    #[error("`{tensor}` is in {shard}, but listed in {listed}")]
    WrongShard { tensor: String, shard: String, listed: String },
    #[error("`{tensor}` is in {shard} and in {other}, and they differ")]
    TwoShards { tensor: String, shard: String, other: String },
    #[error("`{tensor}` is in {shard} and in {other}, byte for byte")]
    Copies { tensor: String, shard: String, other: String },
}

/// The weight file could not be written. An older file under its name stays unchanged, unless only the flush of the folder
/// failed: then the new file has already replaced it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum WriteError {
    #[error("{path}: cannot {action}: {source}; the file was not changed")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{path}: tensor `{name}` is listed twice")]
    Duplicate { path: PathBuf, name: String },
    #[error("{path}: tensor `{name}` of shape {shape:?} has more bytes than any file")]
    Overflow { path: PathBuf, name: String, shape: Vec<usize> },
    #[error("{path}: tensor `{got}` was written where the header has {}", .want.as_deref().unwrap_or("no further tensor"))]
    Order { path: PathBuf, got: String, want: Option<String> },
    #[error("{path}: {got} more bytes of tensor `{name}` were written where {want} are left of its shape")]
    Length { path: PathBuf, name: String, got: usize, want: usize },
    #[error("{path}: finished before tensor `{name}` was written")]
    Unfinished { path: PathBuf, name: String },
}

pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Lists only the first faults, because an index can have one for each tensor.
pub(super) fn list(faults: &[IndexFault]) -> String {
    const SHOWN: usize = 5;
    const LONGEST: usize = 300;
    let shown = faults.iter().take(SHOWN).map(|fault| shorten(&fault.to_string(), LONGEST));
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if faults.len() > SHOWN {
        text += &format!("; and {} more", faults.len() - SHOWN);
    }
    text
}

fn other_format(found: &Option<String>) -> String {
    match found {
        Some(found) => format!(" ({found})"),
        None => String::new(),
    }
}
