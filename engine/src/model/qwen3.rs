//! Dense Qwen 3 models have Llama's block with a norm on each head of q and k before they are rotated. Source: arXiv 2505.09388.

use super::config::{ModelConfig, QkNorm};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, attention_bias};
use super::qwen2::{self, upper_windows};
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["qwen3"], architectures: &["Qwen3ForCausalLM"], read };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults { head_dim: Some(128), ..qwen2::DEFAULTS };
    let mut config = ModelConfig::decoder("qwen3", json, &defaults)?;
    config.qk_norm = QkNorm::PerHead;
    config.attention_bias = attention_bias(json)?;
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.layers = upper_windows(json, config.num_hidden_layers)?;
    Ok(config)
}
