//! Gemma 2 is Gemma with norms also on the outputs of attention and MLP, soft-caps on scores and logits, scores scaled by `1 /
//! sqrt(query_pre_attn_scalar)`, and a window in every other layer. Source: arXiv 2408.00118.

use super::config::{ModelConfig, NormPlacement};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, windowed_layers};
use super::gemma::{self, gemma_block};
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["gemma2"], architectures: &["Gemma2ForCausalLM"], read };

/// The defaults of Gemma 2. Gemma 3 changes a few of them.
pub(super) const DEFAULTS: Defaults =
    Defaults { num_attention_heads: Some(8), num_key_value_heads: Some(4), ..gemma::DEFAULTS };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let mut config = ModelConfig::decoder("gemma2", json, &DEFAULTS)?;
    gemma2_block(json, &mut config)?;
    config.attn_logit_softcapping = soft_cap(json, "attn_logit_softcapping", Some(50.0))?;
    config.final_logit_softcapping = soft_cap(json, "final_logit_softcapping", Some(30.0))?;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    let sliding_window = json.size_or_none("sliding_window", 4096)?;
    let slides = || Ok(|layer_idx: usize| layer_idx.is_multiple_of(2));
    config.layers = windowed_layers(json, config.num_hidden_layers, sliding_window, slides)?;
    Ok(config)
}

/// Sets what Gemma 2 and 3 have in common.
pub(super) fn gemma2_block(json: &ConfigJson, config: &mut ModelConfig) -> Result<(), ConfigError> {
    config.check_heads_divide_hidden(json)?;
    gemma_block(json, config)?;
    config.norm_placement = NormPlacement::Sandwich;
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
