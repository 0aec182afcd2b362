//! Qwen 1.5, 2 and 2.5 have Llama's block with a bias on q, k and v. If config.json asks for it, the upper layers have a window.
//! Source: arXiv 2407.10671.

use super::config::{AttentionBias, LayerConfig, ModelConfig};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, windowed_layers};
use super::llama;
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["qwen2"], architectures: &["Qwen2ForCausalLM"], read };

/// The defaults of Qwen 2, shared with Qwen 3.
pub(super) const DEFAULTS: Defaults =
    Defaults { num_key_value_heads: Some(32), max_position_embeddings: 32768, ..llama::DEFAULTS };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let mut config = ModelConfig::decoder("qwen2", json, &DEFAULTS)?;
    config.attention_bias = AttentionBias::Qkv;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.layers = upper_windows(json, config.num_hidden_layers)?;
    Ok(config)
}

/// Returns the layers. If `use_sliding_window` is true, the layers from index `max_window_layers` on have a window of
/// `sliding_window` positions. If the key `layer_types` is present, it decides instead which layers have one. Qwen 3 uses this
/// function too.
pub(super) fn upper_windows(json: &ConfigJson, num_hidden_layers: usize) -> Result<Vec<LayerConfig>, ConfigError> {
    let sliding_window = match json.flag_or("use_sliding_window", false)? {
        true => json.size_or_none("sliding_window", 4096)?,
        false => None,
    };
    let slides = || {
        let first = match json.get("max_window_layers").and_then(serde_json::Value::as_u64) {
            // 0 is valid here: every layer has a window.
            Some(0) => 0,
            _ => json.size_or("max_window_layers", 28)?,
        };
        Ok(move |layer_idx: usize| layer_idx >= first && sliding_window.is_some())
    };
    windowed_layers(json, num_hidden_layers, sliding_window, slides)
}
