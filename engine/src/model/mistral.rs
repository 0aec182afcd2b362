//! Mistral 7B, Nemo and Small have Llama's block. The first version of Mistral 7B also has a sliding window. Source: arXiv
//! 2310.06825.

use super::config::ModelConfig;
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, LayerType, layer_types};
use super::llama;
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family { model_types: &["mistral"], architectures: &["MistralForCausalLM"], read };

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults { num_key_value_heads: Some(8), max_position_embeddings: 4096 * 32, ..llama::DEFAULTS };
    let mut config = ModelConfig::decoder("mistral", json, &defaults)?;
    // if the key is absent, the window is that of the first version
    let sliding_window = json.size_or_none("sliding_window", 4096)?;
    // Models with layers of different types are of another family (`ministral`), so this one refuses them.
    let all = if sliding_window.is_some() { LayerType::Sliding } else { LayerType::Full };
    if layer_types(json, config.num_hidden_layers)?.is_some_and(|types| types.iter().any(|&kind| kind != all)) {
        let expected = "the same type for every layer, sliding_attention exactly if there is a sliding_window";
        return Err(json.refuse("layer_types", expected, "others"));
    }
    config.ropes = vec![RopeConfig::read(json, &config)?];
    config.same_layers(sliding_window);
    Ok(config)
}
