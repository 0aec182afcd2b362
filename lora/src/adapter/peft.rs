//! Reads and writes `adapter_model.safetensors`, with PEFT's names and shapes of tensors.
//!
//! An update is two tensors: `base_model.model.` + module + `.lora_A.weight` of shape `[rank, in_features]`, and `.lora_B.weight`
//! of shape `[out_features, rank]`. A reward model also has `base_model.model.score.weight` of shape `[1, hidden_size]`.
//! `names.rs` knows the other names that are read.

use super::config::{LoraConfig, Task};
use super::error::AdapterError;
use super::folder::{self, CONFIG, WEIGHTS};
use super::names::{Half, Parts, Place, Places, key, misnamed_score, parts, score_key, shared_name};
use super::targets::{Choice, Modules};
use align_engine::model::LinearInfo;
use align_engine::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorInfo, TensorSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Maximum number of names that an error shows.
const SHOWN: usize = 5;
/// The key of [`base_hash`](super::base_hash) in the header of the file. PEFT does not read it.
const BASE: &str = "base_weights";

/// What an adapter's two files hold.
#[derive(Debug)]
pub(super) struct Contents {
    pub config: LoraConfig,
    pub updates: Vec<Update>,
    /// The score head's values, of shape `[1, hidden_size]`. Only a reward model has a score head.
    pub score_head: Option<Vec<f32>>,
    pub not_run: Vec<NotRun>,
    /// [`base_hash`](super::base_hash) of the base that it was trained on, if the file says so.
    pub base: Option<String>,
}

/// What the adapter must fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The task that the adapter must be for. `None` accepts any task.
    pub task: Option<Task>,
    /// The model's hidden size.
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

/// The values of the update of a module that this program does not run, such as one of a vision tower.
#[derive(Debug, Clone)]
pub(super) struct NotRun {
    /// The module's name in the file.
    pub module: String,
    pub rank: usize,
    pub scaling: f32,
    /// `[rank, in_features]`, or `[rank, channels, height, width]` of a convolution.
    pub lora_a: Tensor,
    /// `[out_features, rank]`, or `[out_features, rank, 1, 1]`.
    pub lora_b: Tensor,
}

/// Reads both files of the adapter in `dir` for a model with these linear layers.
///
/// # Errors
/// Every variant of [`AdapterError`] about reading.
pub(super) fn read(dir: &Path, linears: &[LinearInfo], prefix: &str, wanted: Wanted) -> Result<Contents, AdapterError> {
    let config_path = dir.join(CONFIG);
    let weights_path = dir.join(WEIGHTS);
    folder::check(dir, &[CONFIG, WEIGHTS])?;
    let config = LoraConfig::read(&config_path)?;
    if let Some(needed) = wanted.task.filter(|needed| *needed != config.task) {
        return Err(AdapterError::Task { path: config_path, found: config.task, needed });
    }
    let modules = Modules::new(linears, prefix);
    let in_config = |fault| AdapterError::Config { path: config_path.clone(), fault };
    let choices = config.choose(&modules).map_err(in_config)?;
    let file = SafetensorsFile::open(&weights_path)?;
    let found = Found::sort(&file, &modules, config.task)?;
    found.check_modules(&choices, &modules)?;
    found.check_spellings()?;
    // the configuration's patterns may match the names in the file, or the current names of the same modules
    let names: Vec<&str> = found.not_run.keys().copied().collect();
    let now: Vec<String> = names.iter().map(|name| format!("model.{}", shared_name(name))).collect();
    let mut chosen = config.choose_any(&names).map_err(in_config)?;
    for (choice, now) in chosen.iter_mut().zip(config.choose_any(&now).map_err(in_config)?) {
        *choice = choice.or(now);
    }
    let not_run = found.not_run(&chosen)?;
    let updates = choices.into_iter().map(|choice| found.update(choice, &linears[choice.linear]));
    let updates = updates.collect::<Result<_, _>>()?;
    let score_head = match config.task {
        Task::CausalLm => None,
        Task::SequenceClassification => Some(found.score_head(wanted.hidden_size)?),
    };
    let is_hash = |text: &&String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let base = file.metadata().get(BASE).filter(is_hash).cloned();
    Ok(Contents { config, updates, score_head, not_run, base })
}

/// The tensors of a file, grouped by purpose.
struct Found<'a> {
    file: &'a SafetensorsFile,
    halves: BTreeMap<(usize, Half), &'a TensorInfo>,
    score: Option<&'a TensorInfo>,
    /// A and B of each module that is not run, by the module's name.
    not_run: BTreeMap<&'a str, [Option<&'a TensorInfo>; 2]>,
}

impl<'a> Found<'a> {
    /// Groups the tensors by what they are for: linear layers, parts that are not run, the task's head. Refuses all others, and an
    /// A or a B of a linear layer without its partner.
    fn sort(file: &'a SafetensorsFile, modules: &Modules<'_>, task: Task) -> Result<Found<'a>, AdapterError> {
        let places = Places::new(modules);
        let path = || file.path().to_owned();
        let mut found = Found { file, halves: BTreeMap::new(), score: None, not_run: BTreeMap::new() };
        let mut unmatched = BTreeSet::new();
        let mut adapters = BTreeSet::new();
        if let Some(tensor) = file.tensors().iter().find(|tensor| tensor.name.contains(".base_layer.")) {
            let feature = "the base's own weights, which PEFT would put in place of the model's";
            return Err(AdapterError::Unsupported { path: path(), tensor: tensor.name.clone(), feature });
        }
        for tensor in file.tensors() {
            if tensor.name == score_key() {
                if task == Task::CausalLm {
                    let feature = "a score head, beside a `task_type` other than SEQ_CLS in adapter_config.json";
                    return Err(AdapterError::Unsupported { path: path(), tensor: score_key(), feature });
                }
                found.score = Some(tensor);
                continue;
            }
            if let Some(misnamed) = misnamed_score(&tensor.name).filter(|_| task == Task::SequenceClassification) {
                return Err(AdapterError::Misnamed { path: path(), misnamed: misnamed.into(), count: 1 });
            }
            let parts = parts(&tensor.name);
            if let Some(feature) = foreign(&tensor.name, parts.map(|parts| parts.module)) {
                return Err(AdapterError::Unsupported { path: path(), tensor: tensor.name.clone(), feature });
            }
            let place = parts.map_or(Place::Nowhere, |parts| places.find(parts.module));
            let (Some(Parts { module, half, foreign_adapter }), false) = (parts, place == Place::Nowhere) else {
                unmatched.insert(tensor.name.as_str());
                continue;
            };
            if let Some(adapter) = foreign_adapter {
                adapters.insert(adapter);
                continue;
            }
            let earlier = match place {
                Place::Linear(linear) => found.halves.insert((linear, half), tensor),
                Place::NotRun => found.not_run.entry(module).or_default()[half as usize].replace(tensor),
                Place::Nowhere => None,
            };
            if let Some(earlier) = earlier {
                let (tensor, other) = (earlier.name.clone(), tensor.name.clone());
                return Err(AdapterError::Twice { path: path(), tensor, other });
            }
        }
        if !adapters.is_empty() {
            let named = adapters.into_iter().take(SHOWN).map(str::to_owned).collect();
            let others = !found.halves.is_empty();
            return Err(AdapterError::AdapterName { path: path(), named, others });
        }
        if let Some(misnamed) = unmatched.iter().find_map(|tensor| places.misnamed(tensor)) {
            return Err(AdapterError::Misnamed { path: path(), misnamed: misnamed.into(), count: unmatched.len() });
        }
        if !unmatched.is_empty() {
            let count = unmatched.len();
            let tensors = unmatched.into_iter().take(SHOWN).map(str::to_owned).collect();
            return Err(AdapterError::Unmatched { path: path(), tensors, count });
        }
        for (&(linear, half), tensor) in &found.halves {
            if !found.halves.contains_key(&(linear, half.other())) {
                let missing = key(modules.linears[linear], half.other());
                return Err(AdapterError::Partner { path: path(), tensor: tensor.name.clone(), missing });
            }
        }
        Ok(found)
    }

    /// Refuses two updates of a module that is not run, under its older and its newer name, since one of the updates would be
    /// lost.
    fn check_spellings(&self) -> Result<(), AdapterError> {
        let mut modules: BTreeMap<String, &TensorInfo> = BTreeMap::new();
        for (module, halves) in &self.not_run {
            let Some(tensor) = halves.iter().flatten().next() else { continue };
            if let Some(earlier) = modules.insert(shared_name(module), tensor) {
                let (path, tensor, other) = (self.file.path().to_owned(), earlier.name.clone(), tensor.name.clone());
                return Err(AdapterError::Twice { path, tensor, other });
            }
        }
        Ok(())
    }

    /// Returns the updates of modules that are not run. `chosen` has the rank and scaling that the configuration gives to each of
    /// these modules.
    fn not_run(&self, chosen: &[Option<Choice>]) -> Result<Vec<NotRun>, AdapterError> {
        let path = || self.file.path().to_owned();
        let left_out: Vec<&&str> =
            self.not_run.keys().zip(chosen).filter(|(_, c)| c.is_none()).map(|(m, _)| m).collect();
        if !left_out.is_empty() {
            let modules = left_out.iter().take(SHOWN).map(|module| (**module).to_owned()).collect();
            return Err(AdapterError::NotTargeted { path: path(), modules, count: left_out.len() });
        }
        let updates = self.not_run.iter().zip(chosen.iter().flatten()).map(|((module, halves), choice)| {
            let missing = |tensor: &TensorInfo, half| {
                let missing = key(module, half);
                AdapterError::Partner { path: path(), tensor: tensor.name.clone(), missing }
            };
            let (lora_a, lora_b) = match *halves {
                [Some(lora_a), Some(lora_b)] => (lora_a, lora_b),
                [Some(lora_a), None] => return Err(missing(lora_a, Half::B)),
                [None, Some(lora_b)] => return Err(missing(lora_b, Half::A)),
                [None, None] => unreachable!("an entry is made for a tensor"),
            };
            let half = |tensor: &TensorInfo, half, rank_dim: usize| {
                let found_rank = tensor.shape.get(rank_dim).copied().unwrap_or(0);
                if found_rank != choice.rank {
                    let (tensor, found, expected) = (tensor.name.clone(), tensor.shape.clone(), choice.rank);
                    return Err(AdapterError::Rank { path: path(), tensor, found, found_rank, expected });
                }
                Ok(Tensor { key: key(module, half), shape: tensor.shape.clone(), values: self.finite(tensor)? })
            };
            Ok(NotRun {
                module: (*module).to_owned(),
                rank: choice.rank,
                scaling: choice.scaling,
                lora_a: half(lora_a, Half::A, 0)?,
                lora_b: half(lora_b, Half::B, 1)?,
            })
        });
        updates.collect()
    }

    /// Refuses a file whose linear layers are not exactly those that the configuration chooses.
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
        self.finite(tensor)
    }

    /// Returns the values of a tensor, whose shape must be `expected`. Dimension `rank_dim` is the rank.
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
        self.finite(tensor)
    }

    /// Returns the values of a tensor, which must be finite.
    fn finite(&self, tensor: &TensorInfo) -> Result<Vec<f32>, AdapterError> {
        let values = self.file.to_f32(tensor)?;
        check_finite(self.file.path(), &tensor.name, &values)?;
        Ok(values)
    }
}

/// Returns the unsupported method to which a tensor belongs. `None` if no such method is recognised.
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
    if tensor.ends_with(".bias") && (tensor.contains(".lora_A.") || tensor.contains(".lora_B.")) {
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

/// A tensor to write.
#[derive(Clone)]
pub(super) struct Tensor {
    pub key: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.key, self.shape)
    }
}

/// Writes the tensors as f32, sorted by name as in PEFT. The hash of the base weights, if given, goes into the file's header. If
/// writing fails, an earlier file at `path` stays.
///
/// # Errors
/// [`AdapterError::NonFinite`], [`AdapterError::Write`].
pub(super) fn write(path: &Path, mut tensors: Vec<Tensor>, base: Option<&str>) -> Result<(), AdapterError> {
    tensors.sort_by(|one, other| one.key.cmp(&other.key));
    for tensor in &tensors {
        check_finite(path, &tensor.key, &tensor.values)?;
    }
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    metadata.extend(base.map(|hash| (BASE.to_owned(), hash.to_owned())));
    let spec =
        |tensor: &Tensor| TensorSpec { name: tensor.key.clone(), dtype: Dtype::F32, shape: tensor.shape.clone() };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let mut writer = SafetensorsWriter::create(path, &metadata, &specs)?;
    for tensor in &tensors {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write(&tensor.key, &bytes)?;
    }
    Ok(writer.finish()?)
}
