//! Gemma is Llama with norm weights stored as `weight - 1`, GeGLU, and embeddings scaled by `sqrt(hidden_size)`. Source: arXiv
//! 2403.08295, sec. 2.

use super::config::ModelConfig;
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, attention_bias};
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["gemma"], architectures: &["GemmaForCausalLM"], read };

/// The defaults of the first Gemma. Gemma 2 and 3 change a few of them.
pub(super) const DEFAULTS: Defaults = Defaults {
    num_attention_heads: Some(16),
    num_key_value_heads: Some(16),
    head_dim: Some(256),
    vocab_size: Some(256_000),
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    pad_token_id: Some(0),
    // the published files of the first Gemma have `gelu` in `hidden_act` and mean its tanh form; without `hidden_activation`,
    // that form is used too
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
};

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let mut config = ModelConfig::decoder("gemma", json, &DEFAULTS)?;
    if let Some(other) = json.text_opt("hidden_act")?.filter(|act| !["gelu", "gelu_pytorch_tanh"].contains(act)) {
        return Err(json.refuse("hidden_act", "gelu_pytorch_tanh", other));
    }
    gemma_block(json, &mut config)?;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.same_layers(None);
    Ok(config)
}

/// Sets what all Gemmas have in common. Refuses an encoder.
pub(super) fn gemma_block(json: &ConfigJson, config: &mut ModelConfig) -> Result<(), ConfigError> {
    if json.flag_or("use_bidirectional_attention", false)? {
        return Err(json.refuse("use_bidirectional_attention", "false: an encoder has no log-probs to train", true));
    }
    config.norm_offset = 1.0;
    config.attention_bias = attention_bias(json)?;
    config.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    Ok(())
}
