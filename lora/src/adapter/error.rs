//! Errors of reading and writing adapters.

use super::config::Task;
use super::folder::Instead;
use super::names::Misnamed;
use align_engine::JsonError;
use align_engine::weights::{LoadError, WriteError};
use align_kernels::KernelError;
use std::io;
use std::path::PathBuf;

/// An adapter was refused or could not be written. The fault is in a file unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum AdapterError {
    /// `adapter_config.json` has a wrong or unsupported value.
    #[error("{path}: {fault}")]
    Config { path: PathBuf, fault: ConfigFault },
    /// A user's option for a new adapter is wrong.
    #[error("LoRA options: {0}")]
    Options(ConfigFault),
    /// `adapter_config.json` cannot be read, or is not a JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A file of the adapter is missing.
    #[error("{dir}: holds no {file}{}", .instead.hint())]
    NoFile {
        dir: PathBuf,
        file: &'static str,
        /// What the folder holds instead.
        instead: Instead,
    },
    /// `adapter_model.safetensors` is damaged, or a tensor has a number format that weights cannot have.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A tensor belongs to a method that this program lacks.
    #[error("{path}: tensor `{tensor}` belongs to {feature}, which is not supported; train a plain LoRA adapter")]
    Unsupported { path: PathBuf, tensor: String, feature: &'static str },
    /// One half of an update is missing.
    #[error(
        "{path}: tensor `{tensor}` is there, its partner `{missing}` is not; the file is incomplete, save it again"
    )]
    Partner { path: PathBuf, tensor: String, missing: String },
    /// Tensors belong to modules that the model lacks.
    #[error(
        "{path}: {} the model does not have: {}; is this the adapter of another model?",
        counted(*.count, "tensor is for a module that", "tensors are for modules that"), first(.tensors, *.count)
    )]
    Unmatched {
        path: PathBuf,
        /// The first five, by name.
        tensors: Vec<String>,
        count: usize,
    },
    /// Names of tensors have an extra, missing or wrong part, left by a wrapped model or another program.
    #[error(
        "{path}: {} PEFT does not read: {misnamed}; save the adapter with save_pretrained of the unwrapped model, or \
         rename the tensors",
        counted(*.count, "tensor has a name that", "tensors have names that")
    )]
    Misnamed {
        path: PathBuf,
        /// The first such name.
        misnamed: Box<Misnamed>,
        count: usize,
    },
    /// Names of tensors contain an adapter's name that PEFT does not remove.
    #[error(
        "{path}: {}; PEFT reads names without one, or with `default`, and leaves the others out: keep one adapter in \
         the file, with `.weight` straight after `lora_A` and `lora_B`", adapter_names(.named, *.others)
    )]
    AdapterName {
        path: PathBuf,
        /// The first five names other than `default`.
        named: Vec<String>,
        /// Whether PEFT reads other tensors of the file.
        others: bool,
    },
    /// The file has one matrix under two names.
    #[error("{path}: `{tensor}` and `{other}` are the same matrix; the file is a mix of two, save the adapter again")]
    Twice { path: PathBuf, tensor: String, other: String },
    /// The file has modules that the configuration leaves out.
    #[error(
        "{path}: {} that target_modules of adapter_config.json leaves out: {}; the two files are from different runs",
        counted(*.count, "module", "modules"), first(.modules, *.count)
    )]
    NotTargeted {
        path: PathBuf,
        /// The first five, in the model's order.
        modules: Vec<String>,
        count: usize,
    },
    /// The configuration targets modules for which the file has no tensors.
    #[error(
        "{path}: {} that adapter_config.json targets {} no tensors: {}; the file is incomplete, or of another run",
        counted(*.count, "module", "modules"), if *.count == 1 { "has" } else { "have" }, first(.modules, *.count)
    )]
    NotInFile {
        path: PathBuf,
        /// The first five, in the model's order.
        modules: Vec<String>,
        count: usize,
    },
    /// A tensor's rank is not that of the configuration.
    #[error(
        "{path}: tensor `{tensor}` is {found:?}, of rank {found_rank}; adapter_config.json says rank {expected}; \
         the two files are from different runs"
    )]
    Rank { path: PathBuf, tensor: String, found: Vec<usize>, found_rank: usize, expected: usize },
    /// A tensor does not have the width of the model's layer.
    #[error(
        "{path}: tensor `{tensor}` is {found:?}, this model needs {expected:?}; is this the adapter of another model?"
    )]
    Shape { path: PathBuf, tensor: String, found: Vec<usize>, expected: [usize; 2] },
    /// A reward model's adapter where a language model's is needed, or the reverse.
    #[error("{path}: `task_type` is {}: {}", .found.name(), task_hint(*.needed))]
    Task { path: PathBuf, found: Task, needed: Task },
    /// A reward model lacks its head.
    #[error(
        "{path}: `{tensor}` is missing, the score head that `task_type` SEQ_CLS in adapter_config.json promises; save the adapter \
         again with \"score\" in `modules_to_save`"
    )]
    NoScoreHead { path: PathBuf, tensor: String },
    /// A score head does not have the model's width, or has more than one output.
    #[error(
        "{path}: tensor `{tensor}` is {found:?}, the score head of a reward model on this model is [1, {hidden_size}]; is this the \
         adapter of another model, or a classifier of several labels?"
    )]
    ScoreHead { path: PathBuf, tensor: String, found: Vec<usize>, hidden_size: usize },
    /// A value is NaN or infinite.
    #[error(
        "{path}: `{tensor}` holds {value} at element {element}; the run that wrote it diverged, take an earlier checkpoint"
    )]
    NonFinite { path: PathBuf, tensor: String, element: usize, value: f32 },
    /// A file or folder cannot be written.
    #[error("{path}: cannot {action}: {source}; what was there before stays")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    /// The tensors cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A fault of a LoRA configuration. Keys are those of `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigFault {
    #[error("`{key}` is missing; is this the adapter_config.json of a PEFT adapter?")]
    Missing { key: &'static str },
    #[error(
        "`{key}`: this is the configuration of an mlx-lm adapter, whose names and matrices are not PEFT's; merge it with \
         `mlx_lm.fuse` and give the result as the model, or convert it to PEFT's format"
    )]
    Mlx { key: &'static str },
    #[error("`{key}` is {found}, expected {expected}")]
    Value { key: String, expected: &'static str, found: String },
    #[error("`{key}` is {found}: {feature} is not supported; train a plain LoRA adapter")]
    Unsupported { key: &'static str, found: String, feature: &'static str },
    #[error(
        "`{key}` is {found}: this program does not know what that changes; set it to null if the adapter is plain LoRA"
    )]
    UnknownKey { key: String, found: String },
    #[error("`{key}` goes with a list as `target_modules` only, which is {targets}; say it in the regular expression")]
    NeedsList { key: &'static str, targets: String },
    #[error("`layers_pattern` without `layers_to_transform` changes nothing; give both or none")]
    PatternAlone,
    #[error("`{key}`: the pattern {pattern:?} cannot be used: {reason}")]
    Pattern { key: &'static str, pattern: String, reason: String },
    #[error("`target_modules` {targets} matches no linear layer of this model{hint}; they are {modules}")]
    NothingMatches {
        targets: String,
        /// A part of the message. It is empty unless other keys also restrict the choice of modules.
        hint: &'static str,
        /// The names of the model's linear layers, with `N` in place of the layer's number.
        modules: String,
    },
    #[error("`target_modules` matches `{module}`: adapters on embeddings are not supported; leave it out")]
    Embedding { module: String },
}

impl ConfigFault {
    pub(super) fn value(key: impl Into<String>, expected: &'static str, found: String) -> ConfigFault {
        ConfigFault::Value { key: key.into(), expected, found }
    }
}

fn counted(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

/// Joins names with commas. Appends `...` if `count`, the total number of names, is larger than the number of `names`.
fn first(names: &[String], count: usize) -> String {
    let more = if names.len() < count { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

fn adapter_names(named: &[String], others: bool) -> String {
    let names = named.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (others, named.len()) {
        (true, _) => {
            format!("holds several adapters, which its names of tensors call {names} and `default` (or nothing)")
        }
        (false, 1) => format!("the names of its tensors have the adapter's name {names} in them"),
        (false, _) => format!("holds several adapters, which its names of tensors call {names}"),
    }
}

fn task_hint(needed: Task) -> &'static str {
    match needed {
        Task::CausalLm => {
            "a reward model's adapter, whose score head gives rewards and no log-probs, and has no place in a language model"
        }
        Task::SequenceClassification => "an adapter without a score head",
    }
}
