//! What the families' files share: how a family names itself, and how it reads the keys that all of them have.

use super::config::{AttentionBias, Fusion, LayerConfig, ModelConfig, NormPlacement, QkNorm};
use super::config_json::{ConfigJson, MAX_SIZE};
use super::error::ConfigError;
use align_kernels::gate::Activation;

/// Largest number of layers that is accepted. The deepest published model of these families has 126.
const MAX_LAYERS: usize = 1024;
/// Largest head width that is accepted. The largest published one is 256.
const MAX_HEAD_DIM: usize = 4096;

/// A family of models that `config.json` can name.
#[derive(Debug)]
pub struct Family {
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    /// Values of `architectures` for weights that have the language model's head.
    pub architectures: &'static [&'static str],
    /// Reads a configuration of this family.
    pub read: fn(&ConfigJson) -> Result<ModelConfig, ConfigError>,
}

/// The values that a family uses for keys that `config.json` lacks. `None` means that the key must be there, unless the field's
/// comment says how its value follows from other keys. `pad_token_id` alone may have no value at all.
pub(super) struct Defaults {
    pub num_attention_heads: Option<usize>,
    /// `None` means as many as `num_attention_heads`.
    pub num_key_value_heads: Option<usize>,
    /// `None` means `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub vocab_size: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<u32>,
    /// Key of the activation in `config.json`, and its default value.
    pub activation: (&'static str, &'static str),
}

impl ModelConfig {
    /// Reads the keys that all families share. The result is a plain Llama. A family then sets what differs, and always sets
    /// `layers` and `ropes`.
    pub(super) fn decoder(
        family: &'static str,
        json: &ConfigJson,
        defaults: &Defaults,
    ) -> Result<ModelConfig, ConfigError> {
        if json.get("per_layer_config").is_some() {
            let expected = "no such key: layers that differ in shape are not supported";
            return Err(json.refuse("per_layer_config", expected, "it"));
        }
        let hidden_size = json.size("hidden_size")?;
        let intermediate_size = json.size("intermediate_size")?;
        let num_hidden_layers = json.size("num_hidden_layers")?;
        if num_hidden_layers > MAX_LAYERS {
            return Err(json.refuse("num_hidden_layers", format!("at most {MAX_LAYERS}"), num_hidden_layers));
        }
        let num_attention_heads = json.size_or_required("num_attention_heads", defaults.num_attention_heads)?;
        // An absent key means the family's number, `null` means the number of attention heads.
        let absent = if json.has("num_key_value_heads") { None } else { defaults.num_key_value_heads };
        let num_key_value_heads = json.size_or("num_key_value_heads", absent.unwrap_or(num_attention_heads))?;
        if num_key_value_heads > num_attention_heads || !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads ({num_attention_heads})");
            return Err(json.refuse("num_key_value_heads", expected, num_key_value_heads));
        }
        let head_dim = match json.size_opt("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let expected = format!("a divisor of hidden_size ({hidden_size}), or the key head_dim");
                return Err(json.refuse("num_attention_heads", expected, num_attention_heads));
            }
        };
        if head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(2) {
            return Err(json.refuse("head_dim", format!("an even number up to {MAX_HEAD_DIM}"), head_dim));
        }
        // Both factors are at most 2^24, so the product fits.
        if num_attention_heads * head_dim > MAX_SIZE {
            let expected = format!("num_attention_heads * head_dim of at most {MAX_SIZE}");
            return Err(json.refuse("num_attention_heads", expected, num_attention_heads));
        }
        let vocab_size = json.size_or_required("vocab_size", defaults.vocab_size)?;
        let (key, default) = defaults.activation;
        let activation = match json.text_opt(key)?.unwrap_or(default) {
            "silu" | "swish" => Activation::Silu,
            "gelu_pytorch_tanh" => Activation::GeluTanh,
            other => return Err(json.refuse(key, "silu or gelu_pytorch_tanh", other)),
        };
        Ok(ModelConfig {
            family,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size,
            max_position_embeddings: json.size_or("max_position_embeddings", defaults.max_position_embeddings)?,
            rms_norm_eps: json.positive_opt("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps) as f32,
            tie_word_embeddings: json.flag_or("tie_word_embeddings", defaults.tie_word_embeddings)?,
            norm_offset: 0.0,
            norm_placement: NormPlacement::Pre,
            qk_norm: QkNorm::None,
            attention_bias: AttentionBias::None,
            mlp_bias: false,
            fusion: Fusion::None,
            activation,
            embedding_scale: 1.0,
            attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            layers: Vec::new(),
            ropes: Vec::new(),
            eos_token_ids: json.token_ids("eos_token_id")?,
            bos_token_id: json.token_ids("bos_token_id")?.first().copied(),
            pad_token_id: match json.has("pad_token_id") {
                true => json.token_ids("pad_token_id")?.first().copied(),
                false => defaults.pad_token_id,
            },
            dtype: json.text_opt("dtype")?.or(json.text_opt("torch_dtype")?).map(str::to_owned),
            quantization: None,
            old_rope_key: None,
            cache_follows_rope: false,
            tensor_prefixes: &["model.", "", "model.model."],
            module_prefix: "model.",
        })
    }

    /// Gives every layer the same window and the first rope.
    pub(super) fn same_layers(&mut self, sliding_window: Option<usize>) {
        self.layers = vec![LayerConfig { sliding_window, rope: 0 }; self.num_hidden_layers];
    }

    /// Refuses a hidden size that is not a multiple of the number of heads, even if `head_dim` is given. transformers also
    /// refuses it for the families that call this.
    pub(super) fn check_heads_divide_hidden(&self, json: &ConfigJson) -> Result<(), ConfigError> {
        if self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Ok(());
        }
        let expected = format!("a divisor of hidden_size ({})", self.hidden_size);
        Err(json.refuse("num_attention_heads", expected, self.num_attention_heads))
    }
}

/// Reads `attention_bias`, which most families have: a bias on all projections of attention, or on none.
pub(super) fn attention_bias(json: &ConfigJson) -> Result<AttentionBias, ConfigError> {
    Ok(if json.flag_or("attention_bias", false)? { AttentionBias::All } else { AttentionBias::None })
}

/// The two values that `layer_types` can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerType {
    Full,
    Sliding,
}

/// Reads `layer_types`, one per layer. `None` if the key is absent.
pub(super) fn layer_types(json: &ConfigJson, num_hidden_layers: usize) -> Result<Option<Vec<LayerType>>, ConfigError> {
    let Some(names) = json.texts_opt("layer_types")? else { return Ok(None) };
    if names.len() != num_hidden_layers {
        let expected = format!("one entry for each of the {num_hidden_layers} layers");
        return Err(json.refuse("layer_types", expected, format!("{} entries", names.len())));
    }
    let kind = |name: &str| match name {
        "full_attention" => Ok(LayerType::Full),
        "sliding_attention" => Ok(LayerType::Sliding),
        other => Err(json.refuse("layer_types", "full_attention or sliding_attention", other)),
    };
    names.into_iter().map(kind).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Returns the layers, with a window for those that are `sliding_attention` in `layer_types`. If that key is absent, `slides`
/// decides which layers have a window. All layers have the first rope.
///
/// # Errors
/// [`ConfigError::Value`] if a layer should have a window but no size is given.
pub(super) fn windowed_layers<S: Fn(usize) -> bool>(
    json: &ConfigJson,
    num_hidden_layers: usize,
    sliding_window: Option<usize>,
    slides: impl FnOnce() -> Result<S, ConfigError>,
) -> Result<Vec<LayerConfig>, ConfigError> {
    let types = match layer_types(json, num_hidden_layers)? {
        Some(types) => types,
        None => {
            let slides = slides()?;
            let layer_type = |layer_idx| if slides(layer_idx) { LayerType::Sliding } else { LayerType::Full };
            (0..num_hidden_layers).map(layer_type).collect()
        }
    };
    if sliding_window.is_none() && types.contains(&LayerType::Sliding) {
        return Err(json.refuse("sliding_window", "a size, for layers of type sliding_attention", "none in use"));
    }
    let window = |kind: LayerType| if kind == LayerType::Sliding { sliding_window } else { None };
    Ok(types.into_iter().map(|kind| LayerConfig { sliding_window: window(kind), rope: 0 }).collect())
}
