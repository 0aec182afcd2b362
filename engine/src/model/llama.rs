//! Llama 2 and 3, SmolLM 1 and 2, and every model that is published with `model_type` llama.
//!
//! Llama is the base of the other families. Its block has RMS norms, attention with grouped-query heads and rotary positions, and
//! SwiGLU. Source: arXiv 2307.09288, 2407.21783.

use super::config::ModelConfig;
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, attention_bias};
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["llama"], architectures: &["LlamaForCausalLM"], read };

/// The defaults of Llama. Most other families start from them and change a few.
pub(super) const DEFAULTS: Defaults = Defaults {
    num_attention_heads: None,
    num_key_value_heads: None,
    head_dim: None,
    vocab_size: None,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
    pad_token_id: None,
    activation: ("hidden_act", "silu"),
};

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let mut config = ModelConfig::decoder("llama", json, &DEFAULTS)?;
    config.check_heads_divide_hidden(json)?;
    config.attention_bias = attention_bias(json)?;
    config.mlp_bias = json.flag_or("mlp_bias", false)?;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.same_layers(None);
    Ok(config)
}
