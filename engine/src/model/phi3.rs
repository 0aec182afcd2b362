//! Phi 3, 3.5 and 4 (text) have Llama's block, with q, k and v in one matrix and gate and up in another. The rotation may cover
//! only part of each head, and may have separate factors for short and long sequences. Source: arXiv 2404.14219.

use super::config::{Fusion, ModelConfig};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family};
use super::llama;
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["phi3"], architectures: &["Phi3ForCausalLM"], read };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults =
        Defaults { max_position_embeddings: 4096, rms_norm_eps: 1e-5, pad_token_id: Some(32_000), ..llama::DEFAULTS };
    let mut config = ModelConfig::decoder("phi3", json, &defaults)?;
    config.fusion = Fusion::QkvAndGateUp;
    config.ropes = vec![RopeConfig::read_phi3(json, &config)?];
    // as in transformers, which computes the cached keys again for this family only
    config.cache_follows_rope = true;
    config.same_layers(json.size_opt("sliding_window")?);
    Ok(config)
}
