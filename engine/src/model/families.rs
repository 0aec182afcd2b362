//! The model families: each is one file with a [`Family`], and one line here.

use super::config::ModelConfig;
use super::config_json::{ConfigJson, SHOWN};
use super::error::ConfigError;
use super::{gemma, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use crate::json::shorten;

/// A family of models that `config.json` can name.
#[derive(Debug)]
pub struct Family {
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    /// Values of `architectures` whose weights have the language model's head.
    pub architectures: &'static [&'static str],
    /// Reads a configuration of this family.
    pub read: fn(&ConfigJson) -> Result<ModelConfig, ConfigError>,
}

/// All of them.
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

/// The family of a configuration: by `model_type`, or where an old file lacks it, by its architecture.
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
    // A reward model or an encoder of the same family has other weights.
    if !architectures.is_empty() && !named(&family) {
        return Err(unknown(architectures[0]));
    }
    Ok(family)
}
