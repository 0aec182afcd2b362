//! The text model of Gemma 3 is Gemma 2 with norms on the heads of q and k in place of the soft-caps. It has five layers with a
//! window for each layer without one, and a rope for each of these two kinds of layers. Source: arXiv 2503.19786.
//!
//! The models from 4B up also see images. Their `model_type` is `gemma3`, and the keys of the text model are nested under
//! `text_config`. The weights of the vision tower are not read.

use super::config::{ModelConfig, QkNorm};
use super::config_json::ConfigJson;
use super::error::ConfigError;
use super::family::{Defaults, Family, windowed_layers};
use super::gemma2::{self, gemma2_block, soft_cap};
use super::rope::RopeConfig;

pub(super) const FAMILY: Family = Family {
    model_types: &["gemma3_text", "gemma3"],
    architectures: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    read,
};

/// Index of the rope of layers without a window.
const FULL: usize = 0;
/// Index of the rope of layers with a window.
const SLIDING: usize = 1;

fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
    let Some(text) = json.nested("text_config")? else { return read_text(json) };
    let mut config = read_text(&text)?;
    config.tensor_prefixes = &["language_model.model.", "model.language_model.", "language_model.", "model."];
    config.module_prefix = "model.language_model.";
    // The keys below are in the outer object, beside `text_config`.
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
    let defaults = Defaults { vocab_size: Some(262_208), max_position_embeddings: 131_072, ..gemma2::DEFAULTS };
    let mut config = ModelConfig::decoder("gemma3", json, &defaults)?;
    gemma2_block(json, &mut config)?;
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
    let sliding_window = json.size_or_none("sliding_window", 4096)?;
    let slides = || {
        let pattern = json.size_or("sliding_window_pattern", 6)?;
        Ok(move |layer_idx: usize| !(layer_idx + 1).is_multiple_of(pattern))
    };
    config.layers = windowed_layers(json, config.num_hidden_layers, sliding_window, slides)?;
    for layer in &mut config.layers {
        layer.rope = if layer.sliding_window.is_some() { SLIDING } else { FULL };
    }
    Ok(config)
}

/// Reads `rope_parameters`, nested by layer type, or the older `rope_theta`, `rope_local_base_freq` and `rope_scaling`.
/// `rope_scaling` applies only to layers without a window.
fn ropes(json: &ConfigJson, config: &ModelConfig) -> Result<Vec<RopeConfig>, ConfigError> {
    let nested = json.nested_or_empty("rope_parameters")?;
    if nested.get("rope_type").is_some() || nested.get("rope_theta").is_some() {
        let expected = "an object for full_attention and one for sliding_attention";
        return Err(json.refuse("rope_parameters", expected, "one for both"));
    }
    let full = match json.nested("rope_scaling")? {
        Some(scaling) => scaling,
        None => nested.nested_or_empty("full_attention")?,
    };
    let sliding = nested.nested_or_empty("sliding_attention")?;
    let full_theta = nested.nested_or_empty("full_attention")?.positive_opt("rope_theta")?;
    let full_theta = full_theta.or(json.positive_opt("rope_theta")?).unwrap_or(1_000_000.0);
    let sliding_theta = json.positive_opt("rope_local_base_freq")?.unwrap_or(10_000.0);
    Ok(vec![
        RopeConfig::from_parameters(&full, config, full_theta, None)?,
        RopeConfig::from_parameters(&sliding, config, sliding_theta, None)?,
    ])
}
