//! Qwen 1.5, 2 and 2.5: Llama with a bias on q, k and v, and a window in the upper layers if asked for. Source: arXiv
//! 2407.10671.

use super::config::{AttentionBias, LayerConfig, ModelConfig};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, LayerType, layer_types, windows};
use super::rope::RopeConfig;

pub const FAMILY: Family = Family { model_types: &["qwen2"], architectures: &["Qwen2ForCausalLM"], read };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults {
        num_attention_heads: None,
        num_key_value_heads: Some(32),
        head_dim: None,
        vocab_size: None,
        max_position_embeddings: 32768,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        pad_token_id: None,
        activation: ("hidden_act", "silu"),
    };
    let mut config = ModelConfig::decoder("qwen2", json, &defaults)?;
    config.attention_bias = AttentionBias::Qkv;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.layers = upper_windows(json, config.num_hidden_layers)?;
    Ok(config)
}

/// With `use_sliding_window`, layers from `max_window_layers` on see `sliding_window` positions, unless `layer_types` says
/// which do. Shared with Qwen 3.
pub(super) fn upper_windows(json: &ConfigJson, num_hidden_layers: usize) -> Result<Vec<LayerConfig>, ConfigError> {
    let sliding_window = match (json.flag_or("use_sliding_window", false)?, json.has("sliding_window")) {
        (false, _) => None,
        (true, true) => json.size_opt("sliding_window")?,
        (true, false) => Some(4096),
    };
    let types = match layer_types(json, num_hidden_layers)? {
        Some(types) => types,
        None => {
            let first = match json.get("max_window_layers").and_then(serde_json::Value::as_u64) {
                // 0 is a good value here: every layer.
                Some(0) => 0,
                _ => json.size_or("max_window_layers", 28)?,
            };
            let slides = |layer_idx: usize| sliding_window.is_some() && layer_idx >= first;
            (0..num_hidden_layers).map(|i| if slides(i) { LayerType::Sliding } else { LayerType::Full }).collect()
        }
    };
    let windows = windows(json, &types, sliding_window)?;
    Ok(windows.into_iter().map(|sliding_window| LayerConfig { sliding_window, rope: 0 }).collect())
}
