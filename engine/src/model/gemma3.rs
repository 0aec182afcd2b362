//! Gemma 3, text: Gemma 2 with norms on the heads of q and k in place of the soft-caps, five layers with a window to one
//! without, and a position encoding for each of the two kinds. Source: arXiv 2503.19786.
//!
//! From 4B up the model also sees images: `model_type` is `gemma3`, the text's part of config.json is nested under
//! `text_config`, and the vision tower's weights are not read.

use super::config::{LayerConfig, ModelConfig, QkNorm};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, LayerType, layer_types, windows};
use super::gemma2::{gemma_block, sliding_window, soft_cap};
use super::rope::RopeConfig;

pub const FAMILY: Family = Family {
    model_types: &["gemma3_text", "gemma3"],
    architectures: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    read,
};

/// Index of the encoding of layers without a window.
const FULL: usize = 0;
/// Index of the encoding of layers with a window.
const SLIDING: usize = 1;

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let Some(text) = json.nested("text_config")? else { return read_text(json) };
    let mut config = read_text(&text)?;
    config.tensor_prefixes = &["language_model.model.", "model.language_model.", "language_model.", "model."];
    config.module_prefix = "model.language_model.";
    // These stand beside text_config.
    config.tie_word_embeddings = json.flag_or("tie_word_embeddings", config.tie_word_embeddings)?;
    if json.get("eos_token_id").is_some() {
        config.eos_token_ids = json.token_ids("eos_token_id")?;
    }
    if config.dtype.is_none() {
        config.dtype = json.text_opt("dtype")?.or(json.text_opt("torch_dtype")?).map(str::to_owned);
    }
    Ok(config)
}

fn read_text(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let defaults = Defaults {
        num_attention_heads: Some(8),
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        vocab_size: Some(262_208),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        pad_token_id: Some(0),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
    };
    let mut config = ModelConfig::decoder("gemma3", json, &defaults)?;
    gemma_block(json, &mut config)?;
    config.qk_norm = QkNorm::PerHead;
    config.attn_logit_softcapping = soft_cap(json, "attn_logit_softcapping", None)?;
    config.final_logit_softcapping = soft_cap(json, "final_logit_softcapping", None)?;
    config.ropes = ropes(json, &config)?;
    config.old_rope_key = match json.nested("rope_scaling")? {
        Some(scaling) if scaling.get("rope_type").is_none() => {
            scaling.text_opt("type")?.filter(|name| *name != "default").map(str::to_owned)
        }
        _ => None,
    };
    let types = match layer_types(json, config.num_hidden_layers)? {
        Some(types) => types,
        None => {
            let pattern = json.size_or("sliding_window_pattern", 6)?;
            let slides = |layer_idx: usize| !(layer_idx + 1).is_multiple_of(pattern);
            (0..config.num_hidden_layers)
                .map(|layer_idx| if slides(layer_idx) { LayerType::Sliding } else { LayerType::Full })
                .collect()
        }
    };
    let windows = windows(json, &types, sliding_window(json)?)?;
    config.layers = windows
        .into_iter()
        .map(|window| LayerConfig { sliding_window: window, rope: if window.is_some() { SLIDING } else { FULL } })
        .collect();
    Ok(config)
}

/// `rope_parameters` nested by layer type, or the older `rope_theta`, `rope_local_base_freq` and `rope_scaling`. The last is
/// only for layers without a window.
fn ropes(json: &ConfigJson, config: &ModelConfig) -> Result<Vec<RopeConfig>, ConfigError> {
    let empty = || ConfigJson::new(json.path(), serde_json::Map::new());
    let nested = json.nested("rope_parameters")?.unwrap_or_else(empty);
    if nested.get("rope_type").is_some() || nested.get("rope_theta").is_some() {
        let expected = "an object for full_attention and one for sliding_attention";
        return Err(json.refuse("rope_parameters", expected, "one for both"));
    }
    let full = match json.nested("rope_scaling")? {
        Some(scaling) => scaling,
        None => nested.nested("full_attention")?.unwrap_or_else(empty),
    };
    let sliding = nested.nested("sliding_attention")?.unwrap_or_else(empty);
    let full_theta = match nested.nested("full_attention")? {
        Some(parameters) => parameters.positive_opt("rope_theta")?,
        None => None,
    };
    let full_theta = full_theta.or(json.positive_opt("rope_theta")?).unwrap_or(1_000_000.0);
    let sliding_theta = json.positive_opt("rope_local_base_freq")?.unwrap_or(10_000.0);
    Ok(vec![
        RopeConfig::from_parameters(&full, config, full_theta, None)?,
        RopeConfig::from_parameters(&sliding, config, sliding_theta, None)?,
    ])
}
