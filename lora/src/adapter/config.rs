//! Reads and writes `adapter_config.json`. Reading refuses an unknown key unless its value is empty. Writing produces the keys
//! that PEFT 0.21 writes.

use super::error::{AdapterError, ConfigFault};
use super::folder::{self, CONFIG};
use super::targets::{ALL_LINEAR, ModuleNames, Targets};
use align_engine::json;
use align_engine::new_file::NewFile;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// Largest accepted rank. No layer of a published model is that wide.
const MAX_RANK: usize = 1 << 16;
/// Accepted alphas. Values outside of this range are typing errors. Within this range, every scaling is a normal f32.
const ALPHA: std::ops::RangeInclusive<f64> = 1e-9..=1e9;
/// The version of PEFT whose format is written.
const PEFT_VERSION: &str = "0.21.2";

/// `task_type` of the file: what the adapted model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// Log-probs of the next token.
    #[default]
    CausalLm,
    /// One number for each sequence, computed by a head in the adapter: a reward model.
    SequenceClassification,
}

impl Task {
    /// Returns the name that PEFT writes.
    pub fn name(self) -> &'static str {
        match self {
            Task::CausalLm => "CAUSAL_LM",
            Task::SequenceClassification => "SEQ_CLS",
        }
    }
}

/// Names of the head of a sequence classifier: the one that PEFT uses, and the model's own. PEFT lists both in `modules_to_save`.
const HEADS: [&str; 2] = ["classifier", SCORE];
/// The score head's name in every model family of this program.
pub(super) const SCORE: &str = "score";

/// Everything about an adapter except its values.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// `task_type` of the file. With [`Task::SequenceClassification`], the file's `modules_to_save` is the score head.
    pub task: Task,
    /// `r` of the file: rows of A, columns of B.
    pub rank: usize,
    /// `lora_alpha` of the file.
    pub alpha: f64,
    /// `lora_dropout` of the file: the share of the inputs that training drops.
    pub dropout: f64,
    /// `target_modules` of the file: the modules that are adapted.
    pub target_modules: Targets,
    /// Modules that are never adapted, whatever `target_modules` says.
    pub exclude_modules: Option<ModuleNames>,
    /// Whether the scaling is `alpha / sqrt(rank)` instead of `alpha / rank`. Source: arXiv 2312.03732.
    pub use_rslora: bool,
    /// Patterns for names of modules, each with a rank that replaces `rank`. The first matching pattern decides.
    pub rank_pattern: Vec<(String, usize)>,
    /// Patterns for names of modules, each with an alpha that replaces `alpha`. The first matching pattern decides.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Numbers of the adapted layers. `None` and an empty list mean all. Allowed only if `target_modules` is a list.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Patterns for the part of a module's name before the layer's number.
    pub layers_pattern: Option<Vec<String>>,
    /// The base that the adapter was trained on.
    pub base_model_name_or_path: Option<String>,
    /// Revision of the base.
    pub revision: Option<String>,
}

impl Default for LoraConfig {
    /// Rank 16, alpha 32, every linear layer.
    fn default() -> LoraConfig {
        LoraConfig {
            task: Task::CausalLm,
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: Targets::AllLinear,
            exclude_modules: None,
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers_to_transform: None,
            layers_pattern: None,
            base_model_name_or_path: None,
            revision: None,
        }
    }
}

/// Keys that say how an adapter was made, or that act only together with a refused key. Any value is fine. They include keys of
/// ms-swift (`lora_dtype`, `lorap_*`, `swift_type`) and of the first PEFT (`merge_weights`).
const IGNORED_KEYS: [&str; 17] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    "merge_weights",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "swift_type",
];

/// Keys of methods that this program lacks, each with the name that messages use for the method. A key is accepted if its value
/// is null, false or empty.
const NOT_BUILT: [(&str, &str); 19] = [
    ("alora_invocation_tokens", "aLoRA (an adapter that is active after certain tokens)"),
    ("arrow_config", "Arrow (routing between adapters)"),
    ("enable_lora", "an adapter on parts of a fused projection"),
    ("fan_in_fan_out", "a base with transposed weights"),
    ("kasa_config", "KaSA"),
    ("layer_replication", "replication of layers"),
    ("lora_bias", "a bias on the adapter"),
    ("megatron_config", "Megatron"),
    ("model_key_mapping", "a mapping of the tensors' names"),
    ("modules_to_save", "training whole modules beside the adapter"),
    ("monteclora_config", "MonteCLoRA"),
    ("target_parameters", "an adapter on parameters that are no modules"),
    ("trainable_token_indices", "training single tokens of the embedding"),
    ("use_bdlora", "BD-LoRA"),
    ("use_dora", "DoRA"),
    ("use_merged_linear", "an adapter on parts of a fused projection"),
    ("use_qa_lora", "QA-LoRA"),
    ("use_qalora", "QALoRA"),
    ("velora_config", "VeLoRA"),
];

/// Ways to initialise an adapter that leave the base unchanged. Other initialisations subtract the adapter's initial update from
/// the base's weights, so the adapter would not fit the original base.
const INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

impl LoraConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`AdapterError::NoFile`], [`AdapterError::Json`], [`AdapterError::Config`].
    pub fn read(path: &Path) -> Result<LoraConfig, AdapterError> {
        if let Some(dir) = path.parent() {
            folder::check(dir, &[CONFIG])?;
        }
        let object = json::read_object(path)?;
        LoraConfig::from_json(&object).map_err(|fault| AdapterError::Config { path: path.to_owned(), fault })
    }

    /// Reads the configuration from parsed JSON. A missing key gets PEFT's default, which is 8 for `r` and `lora_alpha`.
    ///
    /// # Errors
    /// [`ConfigFault`], except the variants about a model.
    pub fn from_json(object: &Map<String, Value>) -> Result<LoraConfig, ConfigFault> {
        let object = Object { map: object, read: RefCell::default() };
        if object.value("peft_type").is_none() {
            let of_mlx = ["fine_tune_type", "lora_parameters"].into_iter().find(|&key| object.value(key).is_some());
            return Err(of_mlx.map_or(ConfigFault::Missing { key: "peft_type" }, |key| ConfigFault::Mlx { key }));
        }
        object.only("peft_type", "LORA", "an adapter other than LoRA")?;
        let task = object.task()?;
        object.only("bias", "none", "training biases")?;
        for (key, feature) in NOT_BUILT {
            if let Some(value) = object.value(key).filter(|value| !is_nothing(value)) {
                if key == "modules_to_save" && task == Task::SequenceClassification && is_score_head(value) {
                    continue;
                }
                return Err(ConfigFault::Unsupported { key, found: shown(value), feature });
            }
        }
        match object.value("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(init)) if INITS.contains(&init.as_str()) => {}
            Some(other) => {
                let feature = "an initialisation that changes the base's weights";
                return Err(ConfigFault::Unsupported { key: "init_lora_weights", found: shown(other), feature });
            }
        }
        let config = LoraConfig {
            task,
            rank: object.whole_number("r")?.unwrap_or(8),
            alpha: object.number("lora_alpha")?.unwrap_or(8.0),
            dropout: object.number("lora_dropout")?.unwrap_or(0.0),
            target_modules: match object.names("target_modules")? {
                Some(ModuleNames::Regex(word)) if word.eq_ignore_ascii_case(ALL_LINEAR) => Targets::AllLinear,
                Some(names) => Targets::Named(names),
                // PEFT's default for every family here except Phi-3, which has neither module and no default
                None => Targets::Named(ModuleNames::List(vec!["q_proj".to_owned(), "v_proj".to_owned()])),
            },
            exclude_modules: object.names("exclude_modules")?.filter(|names| match names {
                ModuleNames::List(names) => !names.is_empty(),
                ModuleNames::Regex(pattern) => !pattern.is_empty(),
            }),
            use_rslora: object.flag("use_rslora")?,
            rank_pattern: object.patterns("rank_pattern", WHOLE, whole_number)?,
            alpha_pattern: object.patterns("alpha_pattern", NUMBER, Value::as_f64)?,
            layers_to_transform: object.layers()?,
            layers_pattern: object.names("layers_pattern")?.map(|names| match names {
                ModuleNames::List(names) => names,
                ModuleNames::Regex(name) if name.is_empty() => Vec::new(),
                ModuleNames::Regex(name) => vec![name],
            }),
            base_model_name_or_path: object.text("base_model_name_or_path")?.map(str::to_owned),
            revision: object.text("revision")?.map(str::to_owned),
        };
        object.nothing_unknown()?;
        config.check()?;
        Ok(config)
    }

    /// Checks everything that does not depend on a model.
    ///
    /// # Errors
    /// [`ConfigFault::Value`], [`ConfigFault::NeedsList`], [`ConfigFault::PatternAlone`].
    pub fn check(&self) -> Result<(), ConfigFault> {
        let rank = |key: &str, rank: usize| match rank {
            1..=MAX_RANK => Ok(()),
            _ => Err(ConfigFault::value(key, "a whole number from 1 to 65536", rank.to_string())),
        };
        let alpha = |key: &str, alpha: f64| match ALPHA.contains(&alpha) {
            true => Ok(()),
            false => Err(ConfigFault::value(key, "a number above 0 (from 1e-9 to 1e9)", alpha.to_string())),
        };
        rank("r", self.rank)?;
        alpha("lora_alpha", self.alpha)?;
        self.rank_pattern.iter().try_for_each(|(pattern, value)| rank(&in_key("rank_pattern", pattern), *value))?;
        self.alpha_pattern.iter().try_for_each(|(pattern, value)| alpha(&in_key("alpha_pattern", pattern), *value))?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigFault::value("lora_dropout", "a number from 0 to below 1", self.dropout.to_string()));
        }
        let is_list = matches!(self.target_modules, Targets::Named(ModuleNames::List(_)));
        for (key, there) in [
            ("layers_to_transform", self.layers_to_transform.is_some()),
            ("layers_pattern", self.layers_pattern.is_some()),
        ] {
            if there && !is_list {
                return Err(ConfigFault::NeedsList { key, targets: self.target_modules.to_string() });
            }
        }
        if self.layers_to_transform.is_none() && self.layers_pattern.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err(ConfigFault::PatternAlone);
        }
        Ok(())
    }

    /// Returns the factor of an update of this rank and alpha: `alpha / rank`, with rsLoRA `alpha / sqrt(rank)`.
    pub fn scaling(&self, rank: usize, alpha: f64) -> f32 {
        // divided in f64 as in PEFT, and rounded to f32 once, since this factor multiplies every update
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        (alpha / divisor) as f32
    }

    /// Returns the file's content: the keys that PEFT 0.21 writes, sorted.
    pub fn to_json(&self) -> Map<String, Value> {
        // the patterns keep their order, since the first one that matches decides
        let ranks = self.rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), Value::from(*rank))).collect();
        let alphas = self.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), number(*alpha))).collect();
        let target_modules = match &self.target_modules {
            Targets::AllLinear => Value::from(ALL_LINEAR),
            Targets::Named(targets) => names(targets),
        };
        let score_head = (self.task == Task::SequenceClassification).then(|| vec![SCORE]);
        let nothing = Value::Null;
        let entries = [
            ("alora_invocation_tokens", nothing.clone()),
            ("alpha_pattern", Value::Object(alphas)),
            ("arrow_config", nothing.clone()),
            ("auto_mapping", nothing.clone()),
            ("base_model_name_or_path", Value::from(self.base_model_name_or_path.clone())),
            ("bias", Value::from("none")),
            ("corda_config", nothing.clone()),
            ("ensure_weight_tying", Value::from(false)),
            ("eva_config", nothing.clone()),
            ("exclude_modules", Value::from(self.exclude_modules.as_ref().map(names))),
            ("fan_in_fan_out", Value::from(false)),
            ("inference_mode", Value::from(true)),
            ("init_lora_weights", Value::from(true)),
            ("kasa_config", nothing.clone()),
            ("layer_replication", nothing.clone()),
            ("layers_pattern", Value::from(self.layers_pattern.clone())),
            ("layers_to_transform", Value::from(self.layers_to_transform.clone())),
            ("loftq_config", Value::Object(Map::new())),
            ("lora_alpha", number(self.alpha)),
            ("lora_bias", Value::from(false)),
            ("lora_dropout", Value::from(self.dropout)),
            ("lora_ga_config", nothing.clone()),
            ("megatron_config", nothing.clone()),
            ("megatron_core", Value::from("megatron.core")),
            ("modules_to_save", Value::from(score_head)),
            ("monteclora_config", nothing.clone()),
            ("peft_type", Value::from("LORA")),
            ("peft_version", Value::from(PEFT_VERSION)),
            ("qalora_group_size", Value::from(16)),
            ("r", Value::from(self.rank)),
            ("rank_pattern", Value::Object(ranks)),
            ("revision", Value::from(self.revision.clone())),
            ("target_modules", target_modules),
            ("target_parameters", nothing.clone()),
            ("task_type", Value::from(self.task.name())),
            ("trainable_token_indices", nothing.clone()),
            ("use_bdlora", nothing.clone()),
            ("use_dora", Value::from(false)),
            ("use_qalora", Value::from(false)),
            ("use_rslora", Value::from(self.use_rslora)),
            ("velora_config", nothing),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Writes `adapter_config.json`. If writing fails, an existing file at `path` is left unchanged.
    ///
    /// # Errors
    /// [`AdapterError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), AdapterError> {
        let io = |action, source| AdapterError::Io { path: path.to_owned(), action, source };
        let text = serde_json::to_string_pretty(&self.to_json()).map_err(|error| io("make it", error.into()))?;
        NewFile::whole(path, text.as_bytes()).map_err(|error| io(error.action, error.source))
    }
}

/// Returns a whole number as a JSON integer, since some readers accept only an integer as `lora_alpha`.
fn number(value: f64) -> Value {
    // a whole f64 up to 1e9 is exact as an i64
    if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) }
}

fn names(names: &ModuleNames) -> Value {
    match names {
        ModuleNames::List(names) => {
            let mut names = names.clone();
            names.sort();
            names.dedup();
            Value::from(names)
        }
        ModuleNames::Regex(pattern) => Value::from(pattern.as_str()),
    }
}

const WHOLE: &str = "a whole number";
const NUMBER: &str = "a number";
const NAMES: &str = "a string or a list of strings";

/// Typed access to the keys of a file. Null counts as missing.
struct Object<'a> {
    map: &'a Map<String, Value>,
    /// The keys that were asked for.
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Object<'a> {
    fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigFault> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| ConfigFault::value(key, expected, shown(value)))
    }

    fn text(&self, key: &'static str) -> Result<Option<&'a str>, ConfigFault> {
        self.typed(key, "a string", Value::as_str)
    }

    fn flag(&self, key: &'static str) -> Result<bool, ConfigFault> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn whole_number(&self, key: &'static str) -> Result<Option<usize>, ConfigFault> {
        self.typed(key, WHOLE, whole_number)
    }

    fn number(&self, key: &'static str) -> Result<Option<f64>, ConfigFault> {
        self.typed(key, NUMBER, Value::as_f64)
    }

    fn names(&self, key: &'static str) -> Result<Option<ModuleNames>, ConfigFault> {
        self.typed(key, NAMES, |value| match value {
            Value::String(pattern) => Some(ModuleNames::Regex(pattern.clone())),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                names.collect::<Option<Vec<String>>>().map(ModuleNames::List)
            }
            _ => None,
        })
    }

    /// Reads `layers_to_transform`, a list of numbers. A single number counts as a list of one.
    fn layers(&self) -> Result<Option<Vec<usize>>, ConfigFault> {
        self.typed("layers_to_transform", "a layer's number or a list of them", |value| match value {
            Value::Array(layers) => layers.iter().map(whole_number).collect(),
            value => whole_number(value).map(|layer| vec![layer]),
        })
    }

    fn patterns<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>, ConfigFault> {
        let patterns = self.typed(key, "an object of patterns", Value::as_object)?;
        let entries = patterns.into_iter().flatten().map(|(pattern, value)| {
            let fault = || ConfigFault::value(in_key(key, pattern), expected, shown(value));
            Ok((pattern.clone(), read(value).ok_or_else(fault)?))
        });
        entries.collect()
    }

    /// Refuses a key whose value is not `only`. Accepts a missing key.
    fn only(&self, key: &'static str, only: &str, feature: &'static str) -> Result<(), ConfigFault> {
        match self.value(key).filter(|value| value.as_str() != Some(only)) {
            None => Ok(()),
            Some(other) => Err(ConfigFault::Unsupported { key, found: shown(other), feature }),
        }
    }

    fn task(&self) -> Result<Task, ConfigFault> {
        let Some(value) = self.value("task_type") else { return Ok(Task::CausalLm) };
        let tasks = [Task::CausalLm, Task::SequenceClassification];
        tasks.into_iter().find(|task| value.as_str() == Some(task.name())).ok_or_else(|| ConfigFault::Unsupported {
            key: "task_type",
            found: shown(value),
            feature: "a task other than CAUSAL_LM and SEQ_CLS",
        })
    }

    /// Refuses unknown keys. Accepts an unknown key if its value is null, false or empty: a later PEFT may have written it.
    fn nothing_unknown(&self) -> Result<(), ConfigFault> {
        let read = self.read.borrow();
        let is_known = |key: &str| read.contains(key) || IGNORED_KEYS.contains(&key);
        match self.map.iter().find(|(key, value)| !is_known(key) && !is_nothing(value)) {
            None => Ok(()),
            Some((key, value)) => {
                Err(ConfigFault::UnknownKey { key: key.chars().take(80).collect(), found: shown(value) })
            }
        }
    }
}

/// Whether `modules_to_save` names only the score head.
fn is_score_head(modules: &Value) -> bool {
    let names = modules.as_array().into_iter().flatten().map(Value::as_str);
    names.clone().any(|name| name == Some(SCORE))
        && names.clone().all(|name| name.is_some_and(|name| HEADS.contains(&name)))
}

/// Whether a value is null, false or empty: its key then switches nothing on.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

fn whole_number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

/// Returns a pattern's place in the file, for messages.
fn in_key(key: &str, pattern: &str) -> String {
    format!("{key}.{}", pattern.chars().take(80).collect::<String>())
}

/// Returns a value as JSON for messages, cut after 80 characters.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
