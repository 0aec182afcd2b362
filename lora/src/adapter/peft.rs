//! `adapter_model.safetensors` as PEFT names and shapes its tensors, both ways.
//!
//! `base_model.model.` + module + `.lora_A.weight` `[rank, in_features]` and `.lora_B.weight` `[out_features, rank]`; of a
//! reward model `base_model.model.score.weight` `[1, hidden_size]` too.

use super::config::{LoraConfig, SCORE, Task};
use super::error::AdapterError;
use super::targets::{Choice, Modules};
use align_engine::model::LinearInfo;
use align_engine::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorInfo, TensorSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

/// The file of the values.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The file of the configuration.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The file of the values in older adapters: a Python pickle, which runs code when it is read.
const PICKLE: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";
/// How many names an error shows.
const SHOWN: usize = 5;

/// A matrix of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    A,
    B,
}

impl Half {
    fn suffix(self) -> &'static str {
        match self {
            Half::A => ".lora_A.weight",
            Half::B => ".lora_B.weight",
        }
    }

    fn other(self) -> Half {
        match self {
            Half::A => Half::B,
            Half::B => Half::A,
        }
    }
}

/// The tensor's name of one half of the update of `module`.
pub(super) fn key(module: &str, half: Half) -> String {
    format!("{PREFIX}{module}{}", half.suffix())
}

/// The tensor's name of the score head.
pub(super) fn score_key() -> String {
    format!("{PREFIX}{SCORE}.weight")
}

/// An adapter's two files.
#[derive(Debug)]
pub(super) struct Contents {
    pub config: LoraConfig,
    pub updates: Vec<Update>,
    /// `[1, hidden_size]`, of a reward model.
    pub score_head: Option<Vec<f32>>,
}

/// What a file is read for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// None: any.
    pub task: Option<Task>,
    /// Of the model.
    pub hidden_size: usize,
}

/// The values of the update of one linear layer.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub choice: Choice,
    /// `[rank, in_features]`
    pub lora_a: Vec<f32>,
    /// `[out_features, rank]`
    pub lora_b: Vec<f32>,
}

/// Reads both files of the adapter in `dir` for a model with these linear layers.
///
/// # Errors
/// Every variant of [`AdapterError`] that speaks of reading.
pub(super) fn read(dir: &Path, linears: &[LinearInfo], prefix: &str, wanted: Wanted) -> Result<Contents, AdapterError> {
    let config_path = dir.join(CONFIG);
    let weights_path = dir.join(WEIGHTS);
    for (path, file) in [(&config_path, CONFIG), (&weights_path, WEIGHTS)] {
        if !path.exists() {
            return Err(AdapterError::NoFile { dir: dir.to_owned(), file, pickle: dir.join(PICKLE).exists() });
        }
    }
    let config = LoraConfig::read(&config_path)?;
    if let Some(needed) = wanted.task.filter(|needed| *needed != config.task) {
        return Err(AdapterError::Task { path: config_path, found: config.task, needed });
    }
    let modules = Modules::new(linears, prefix);
    let choices = config.choose(&modules).map_err(|fault| AdapterError::Config { path: config_path, fault })?;
    let file = SafetensorsFile::open(&weights_path)?;
    let found = Found::sort(&file, &modules, config.task)?;
    found.check_modules(&choices, &modules)?;
    let updates = choices.into_iter().map(|choice| found.update(choice, &linears[choice.linear]));
    let updates = updates.collect::<Result<_, _>>()?;
    let score_head = match config.task {
        Task::CausalLm => None,
        Task::SequenceClassification => Some(found.score_head(wanted.hidden_size)?),
    };
    Ok(Contents { config, updates, score_head })
}

/// The tensors of a file by the linear layer that they are for.
struct Found<'a> {
    file: &'a SafetensorsFile,
    halves: BTreeMap<(usize, Half), &'a TensorInfo>,
    score: Option<&'a TensorInfo>,
}

impl<'a> Found<'a> {
    /// Refuses tensors that belong to no linear layer nor to the head of the task, and halves without the other.
    fn sort(file: &'a SafetensorsFile, modules: &Modules<'_>, task: Task) -> Result<Found<'a>, AdapterError> {
        let places: HashMap<&str, usize> = modules.linears.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        let path = || file.path().to_owned();
        let mut halves = BTreeMap::new();
        let mut unmatched = BTreeSet::new();
        let score_key = score_key();
        let mut score = None;
        for tensor in file.tensors() {
            if tensor.name == score_key {
                if task == Task::CausalLm {
                    let feature = "a score head, beside a `task_type` other than SEQ_CLS in adapter_config.json";
                    return Err(AdapterError::Unsupported { path: path(), tensor: score_key, feature });
                }
                score = Some(tensor);
                continue;
            }
            let inner = tensor.name.strip_prefix(PREFIX);
            let half =
                [Half::A, Half::B].into_iter().find_map(|half| Some((inner?.strip_suffix(half.suffix())?, half)));
            if let Some(feature) = foreign(&tensor.name, half.map(|(module, _)| module)) {
                return Err(AdapterError::Unsupported { path: path(), tensor: tensor.name.clone(), feature });
            }
            match half.and_then(|(module, half)| Some((*places.get(module)?, half))) {
                Some(place) => {
                    halves.insert(place, tensor);
                }
                None => {
                    unmatched.insert(tensor.name.clone());
                }
            }
        }
        if !unmatched.is_empty() {
            let count = unmatched.len();
            let tensors = unmatched.into_iter().take(SHOWN).collect();
            return Err(AdapterError::Unmatched { path: path(), tensors, count });
        }
        for (&(linear, half), tensor) in &halves {
            if !halves.contains_key(&(linear, half.other())) {
                let missing = key(modules.linears[linear], half.other());
                return Err(AdapterError::Partner { path: path(), tensor: tensor.name.clone(), missing });
            }
        }
        Ok(Found { file, halves, score })
    }

    /// Refuses a file whose modules are not those of the configuration.
    fn check_modules(&self, choices: &[Choice], modules: &Modules<'_>) -> Result<(), AdapterError> {
        let chosen: BTreeSet<usize> = choices.iter().map(|choice| choice.linear).collect();
        let held: BTreeSet<usize> = self.halves.keys().map(|&(linear, _)| linear).collect();
        let path = self.file.path().to_owned();
        let shown = |linears: &[usize]| linears.iter().take(SHOWN).map(|&at| modules.linears[at].to_owned()).collect();
        let extra: Vec<usize> = held.difference(&chosen).copied().collect();
        if !extra.is_empty() {
            return Err(AdapterError::NotTargeted { path, modules: shown(&extra), count: extra.len() });
        }
        let lacking: Vec<usize> = chosen.difference(&held).copied().collect();
        if !lacking.is_empty() {
            return Err(AdapterError::NotInFile { path, modules: shown(&lacking), count: lacking.len() });
        }
        Ok(())
    }

    fn update(&self, choice: Choice, linear: &LinearInfo) -> Result<Update, AdapterError> {
        let half = |half| self.halves[&(choice.linear, half)];
        let lora_a = self.values(half(Half::A), [choice.rank, linear.in_features], 0)?;
        let lora_b = self.values(half(Half::B), [linear.out_features, choice.rank], 1)?;
        Ok(Update { choice, lora_a, lora_b })
    }

    fn score_head(&self, hidden_size: usize) -> Result<Vec<f32>, AdapterError> {
        let path = || self.file.path().to_owned();
        let Some(tensor) = self.score else {
            return Err(AdapterError::NoScoreHead { path: path(), tensor: score_key() });
        };
        if tensor.shape != [1, hidden_size] {
            let (tensor, found) = (tensor.name.clone(), tensor.shape.clone());
            return Err(AdapterError::ScoreHead { path: path(), tensor, found, hidden_size });
        }
        let values = self.file.to_f32(tensor)?;
        check_finite(self.file.path(), &tensor.name, &values)?;
        Ok(values)
    }

    /// The values of a tensor of this shape, of which dimension `rank_dim` is the rank.
    fn values(&self, tensor: &TensorInfo, expected: [usize; 2], rank_dim: usize) -> Result<Vec<f32>, AdapterError> {
        let path = || self.file.path().to_owned();
        let (found, name) = (tensor.shape.clone(), tensor.name.clone());
        if found != expected {
            let fits_model = found.len() == 2 && found[1 - rank_dim] == expected[1 - rank_dim];
            return Err(match fits_model {
                true => {
                    let (found_rank, expected) = (found[rank_dim], expected[rank_dim]);
                    AdapterError::Rank { path: path(), tensor: name, found, found_rank, expected }
                }
                false => AdapterError::Shape { path: path(), tensor: name, found, expected },
            });
        }
        let values = self.file.to_f32(tensor)?;
        check_finite(self.file.path(), &tensor.name, &values)?;
        Ok(values)
    }
}

/// What a tensor is part of, if it is not of a LoRA update of the decoder's linear layers. `module`: of such an update.
fn foreign(tensor: &str, module: Option<&str>) -> Option<&'static str> {
    const EMBEDDING: &str = "an adapter on an embedding (`embed_tokens`, `lm_head`)";
    let is_embedding = |module: &str| {
        let last = module.rsplit('.').next().unwrap_or(module);
        last == "lm_head" || last == "embed_tokens"
    };
    if let Some(module) = module {
        return is_embedding(module).then_some(EMBEDDING);
    }
    if tensor.contains("lora_embedding_") {
        return Some(EMBEDDING);
    }
    if tensor.contains("lora_magnitude_vector") {
        return Some("DoRA");
    }
    if tensor.ends_with(".lora_A.bias") || tensor.ends_with(".lora_B.bias") {
        return Some("an adapter with biases (`lora_bias`)");
    }
    let whole = tensor.strip_suffix(".weight").is_some_and(is_embedding);
    (whole || tensor.contains("modules_to_save")).then_some("a module that was trained whole (`modules_to_save`)")
}

/// Refuses NaN and infinities.
pub(super) fn check_finite(path: &Path, tensor: &str, values: &[f32]) -> Result<(), AdapterError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(element) => {
            let (path, tensor) = (path.to_owned(), tensor.to_owned());
            Err(AdapterError::NonFinite { path, tensor, element, value: values[element] })
        }
    }
}

/// A matrix to be written.
pub(super) struct Tensor {
    pub key: String,
    pub shape: [usize; 2],
    /// Row-major.
    pub values: Vec<f32>,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.key, self.shape)
    }
}

/// Writes the file of the values: f32, in the order of the names, as PEFT does. It appears whole, or what was there before
/// stays.
///
/// # Errors
/// [`AdapterError::NonFinite`], [`AdapterError::Write`].
pub(super) fn write(path: &Path, mut tensors: Vec<Tensor>) -> Result<(), AdapterError> {
    tensors.sort_by(|one, other| one.key.cmp(&other.key));
    for tensor in &tensors {
        check_finite(path, &tensor.key, &tensor.values)?;
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let spec =
        |tensor: &Tensor| TensorSpec { name: tensor.key.clone(), dtype: Dtype::F32, shape: tensor.shape.to_vec() };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let mut writer = SafetensorsWriter::create(path, &metadata, &specs)?;
    for tensor in &tensors {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write(&tensor.key, &bytes)?;
    }
    Ok(writer.finish()?)
}
