//! Gemma 2: norms before and after attention and MLP, with weights stored as `weight - 1`; GeGLU; soft-caps on scores and
//! logits; a window in every other layer; embeddings scaled by `sqrt(hidden_size)`. Source: arXiv 2408.00118.

use super::config::{LayerConfig, ModelConfig, NormPlacement};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, LayerType, attention_bias, layer_types, windows};
use super::rope::RopeConfig;

pub const FAMILY: Family = Family { model_types: &["gemma2"], architectures: &["Gemma2ForCausalLM"], read };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults {
        num_attention_heads: Some(8),
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        vocab_size: Some(256_000),
        max_position_embeddings: 8192,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        pad_token_id: Some(0),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
    };
    let mut config = ModelConfig::decoder("gemma2", json, &defaults)?;
    gemma_block(json, &mut config)?;
    config.attn_logit_softcapping = soft_cap(json, "attn_logit_softcapping", Some(50.0))?;
    config.final_logit_softcapping = soft_cap(json, "final_logit_softcapping", Some(30.0))?;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    let types = match layer_types(json, config.num_hidden_layers)? {
        Some(types) => types,
        None => (0..config.num_hidden_layers)
            .map(|layer_idx| if layer_idx % 2 == 0 { LayerType::Sliding } else { LayerType::Full })
            .collect(),
    };
    let windows = windows(json, &types, sliding_window(json)?)?;
    config.layers = windows.into_iter().map(|sliding_window| LayerConfig { sliding_window, rope: 0 }).collect();
    Ok(config)
}

/// What Gemma 2 and 3 have in common.
pub(super) fn gemma_block(json: &ConfigJson, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.check_heads_divide_hidden(json)?;
    if json.flag_or("use_bidirectional_attention", false)? {
        return Err(json.refuse("use_bidirectional_attention", "false: an encoder has no log-probs to train", true));
    }
    config.norm_offset = 1.0;
    config.norm_placement = NormPlacement::Sandwich;
    config.attention_bias = attention_bias(json)?;
    config.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    let query_pre_attn_scalar = json.positive_opt("query_pre_attn_scalar")?.unwrap_or(256.0);
    config.attention_scale = (1.0 / query_pre_attn_scalar.sqrt()) as f32;
    Ok(())
}

/// Reads a soft-cap: null means none, an absent key means the family's default.
pub(super) fn soft_cap(json: &ConfigJson, key: &'static str, default: Option<f32>) -> Result<Option<f32>, ConfigError> {
    match json.has(key) {
        true => Ok(json.positive_opt(key)?.map(|cap| cap as f32)),
        false => Ok(default),
    }
}

/// Reads the window of Gemma 2 and 3: an absent key means 4096.
pub(super) fn sliding_window(json: &ConfigJson) -> Result<Option<usize>, ConfigError> {
    match json.has("sliding_window") {
        true => json.size_opt("sliding_window"),
        false => Ok(Some(4096)),
    }
}
