//! The model families. Each is one file with a [`Family`], and one line here.

use super::config::{ModelConfig, Quantization};
use super::config_json::{ConfigJson, SHOWN};
use super::error::ConfigError;
use super::family::Family;
use super::{folder, gemma, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use crate::json::shorten;
use std::path::Path;

/// All families.
pub const FAMILIES: &[Family] = &[
    llama::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    phi3::FAMILY,
];

impl ModelConfig {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] if the file is unreadable or names an unknown architecture, or if a key is missing or out of range.
    pub fn open(dir: &Path) -> Result<ModelConfig, ConfigError> {
        let path = dir.join("config.json");
        if let Some(holds) = folder::instead_of_config(dir) {
            return Err(ConfigError::NoConfig { path, holds });
        }
        ModelConfig::read(&ConfigJson::read(&path)?)
    }

    /// Reads a configuration from JSON in memory.
    ///
    /// # Errors
    /// [`ConfigError`] if the JSON names an unknown architecture, or if a key is missing or out of range.
    pub fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
        let family = of(json)?;
        let mut config = (family.read)(json)?;
        config.quantization = Quantization::read(json);
        assert_eq!(config.layers.len(), config.num_hidden_layers, "a family sets every layer");
        assert!(config.layers.iter().all(|layer| layer.rope < config.ropes.len()), "a family sets the ropes it names");
        Ok(config)
    }
}

/// Finds the family of a configuration by `model_type`, or by its architecture if an old file lacks that key.
///
/// `architectures` names the class that once saved the model, and a wrapper may have renamed that class. If there is a
/// `model_type`, `architectures` only tells the task.
pub(super) fn of(json: &ConfigJson) -> Result<&'static Family, ConfigError> {
    let architectures = json.texts_opt("architectures")?.unwrap_or_default();
    let named = |family: &&Family| architectures.iter().any(|name| family.architectures.contains(name));
    let unknown = |found: &str| ConfigError::Architecture {
        path: json.path().to_owned(),
        found: shorten(found, SHOWN),
        supported: FAMILIES.iter().flat_map(|family| family.architectures).copied().collect(),
    };
    let Some(model_type) = json.text_opt("model_type")? else {
        return FAMILIES.iter().find(named).ok_or_else(|| match architectures.first() {
            Some(name) => unknown(name),
            None => ConfigError::Missing { path: json.path().to_owned(), key: "model_type".to_owned() },
        });
    };
    let family = FAMILIES.iter().find(|family| family.model_types.contains(&model_type));
    let family = family.ok_or_else(|| unknown(&format!("`{model_type}`")))?;
    let other_task = architectures.iter().find(|name| has_other_task(name));
    match other_task {
        // a class of the family is accepted, even if its name suggests another task
        Some(name) if !named(&family) => Err(ConfigError::Task {
            path: json.path().to_owned(),
            found: shorten(name, SHOWN),
            expected: family.architectures[0],
        }),
        _ => Ok(family),
    }
}

/// Returns the class to write into a copy of this configuration. `None` if the configuration already names a class that other
/// programs know. Other programs use the class to choose the code that runs a model.
///
/// # Errors
/// [`ConfigError`] if the JSON names an unknown architecture or a class for another task, or if a key is missing or of the wrong
/// type.
pub fn architecture_to_name(json: &ConfigJson) -> Result<Option<&'static str>, ConfigError> {
    let family = of(json)?;
    let architectures = json.texts_opt("architectures")?.unwrap_or_default();
    let is_wrapper = json.nested("text_config")?.is_some();
    let name = if is_wrapper { family.architectures.last() } else { family.architectures.first() };
    let known = architectures.iter().any(|name| family.architectures.contains(name));
    Ok(if known { None } else { name.copied() })
}

/// Whether the name of a class says that it has another task than writing text, such as scoring or classifying. Such a model
/// has other weights than the family's language model. A class with a neutral name, such as `LlamaModel`, may be a language
/// model.
fn has_other_task(class: &str) -> bool {
    let other = ["Reward", "Classif", "Score", "Embedding", "Encoder", "Bidirectional", "MaskedLM"];
    match class.split_once("For") {
        Some((_, task)) => !task.starts_with("CausalLM") && !task.starts_with("ConditionalGeneration"),
        None => other.iter().any(|word| class.contains(word)),
    }
}
