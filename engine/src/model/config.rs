//! What a model is: the facts of `config.json`, read by its family and checked, that the generic block runs on.

use super::config_json::{ConfigJson, MAX_SIZE, SHOWN};
use super::error::ConfigError;
use super::rope_scaling::RopeConfig;
use super::{families, folder};
use crate::json::shorten;
use align_kernels::gate::Activation;
use serde_json::Value;
use std::path::Path;

/// Most layers that are accepted: the deepest published model of these families has 126.
const MAX_LAYERS: usize = 1024;
/// Largest head that is accepted: the largest published one is 256 wide.
const MAX_HEAD_DIM: usize = 4096;

/// A model's shape and its variations on the common decoder block. Names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name of the family that read it, e.g. `llama`.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions that the model was made for; not a limit of the computation.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    /// Whether `lm_head` is the embedding.
    pub tie_word_embeddings: bool,
    /// Added to every norm's weight: 1 for the Gemma families.
    pub norm_offset: f32,
    /// Whether the outputs of attention and MLP are normed too (four norms a layer).
    pub post_norms: bool,
    /// Whether q and k are normed per head before they are rotated.
    pub qk_norm: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Whether q, k and v are one matrix, and gate and up another.
    pub fused_projections: bool,
    /// The function on the gate.
    pub activation: Activation,
    /// Multiplies the embeddings: 1, or `sqrt(hidden_size)` for the Gemma families.
    pub embedding_scale: f32,
    /// Multiplies `q . k`: `1 / sqrt(head_dim)`, or `1 / sqrt(query_pre_attn_scalar)`.
    pub attention_scale: f32,
    /// `cap * tanh(x / cap)` on attention scores.
    pub attn_logit_softcapping: Option<f32>,
    /// The same on the logits.
    pub final_logit_softcapping: Option<f32>,
    /// One per layer.
    pub layers: Vec<LayerConfig>,
    /// The position encodings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// Ids that end a text, as `config.json` has them; see `generation_config`.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    /// What rows are filled up with in a batch of other software, by `config.json` or the family's default. A reward model does
    /// not score this token: its score is that of the last other one.
    pub pad_token_id: Option<u32>,
    /// What the weights are said to be stored in; the files decide.
    pub dtype: Option<String>,
    /// How config.json says that the weights are quantised. The weight files decide.
    pub quantization: Option<Quantization>,
    /// The type of `rope_scaling`, if it has the older key `type` and transformers therefore drops it.
    pub old_rope_key: Option<String>,
    /// Whether a text that outgrows the range of its rope frequencies needs new keys in the cache.
    pub cache_follows_rope: bool,
    /// What stands before `embed_tokens` and `layers` in the weights' names: the first prefix that the files have.
    pub tensor_prefixes: &'static [&'static str],
    /// The same in the names that adapters use, e.g. `model.`
    pub module_prefix: &'static str,
}

/// How one layer differs from its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// A key is visible if it is fewer than this many positions back; the token itself is 0 back. `None`: all are.
    pub sliding_window: Option<usize>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

/// How config.json says that the weights are quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// The key that says so.
    pub key: &'static str,
    /// The method and its bits, e.g. `gptq, 4 bits`.
    pub method: String,
}

impl Quantization {
    /// Keys of config.json that hold it. The last is MLX's own.
    pub const KEYS: [&str; 2] = ["quantization_config", "quantization"];

    /// Reads what a stranger's file says about it. This may be anything, since the weights decide.
    fn read(json: &ConfigJson) -> Option<Quantization> {
        let (key, found) = Quantization::KEYS.into_iter().find_map(|key| Some((key, json.get(key)?)))?;
        let is_set = |key: &str| found.get(key) == Some(&Value::Bool(true));
        let bits = match found.get("bits").and_then(Value::as_u64) {
            Some(bits) => Some(bits),
            None if is_set("load_in_4bit") => Some(4),
            None if is_set("load_in_8bit") => Some(8),
            None => None,
        };
        let name = match found.get("quant_method").and_then(Value::as_str) {
            Some(name) => shorten(name, SHOWN),
            // MLX names no method
            None if found.get("group_size").is_some() && bits.is_some() => "MLX".to_owned(),
            None => "unnamed method".to_owned(),
        };
        let method = bits.map_or(name.clone(), |bits| format!("{name}, {bits} bits"));
        Some(Quantization { key, method })
    }
}

/// What a family takes for keys that `config.json` does not have. `None`: the key must be there, or follows from others as
/// said.
pub(super) struct Defaults {
    pub num_attention_heads: Option<usize>,
    /// `None`: as many as attention heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub vocab_size: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub pad_token_id: Option<u32>,
    /// Key and value of the activation.
    pub activation: (&'static str, &'static str),
}

impl ModelConfig {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] if the file is unreadable, has an unknown architecture, or lacks a key or has it out of range.
    pub fn open(dir: &Path) -> Result<ModelConfig, ConfigError> {
        let path = dir.join("config.json");
        if let Some(holds) = folder::instead_of_config(dir) {
            return Err(ConfigError::NoConfig { path, holds });
        }
        ModelConfig::read(&ConfigJson::read(&path)?)
    }

    /// The same from JSON in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(json: &ConfigJson) -> Result<ModelConfig, ConfigError> {
        let family = families::of(json)?;
        let mut config = (family.read)(json)?;
        config.quantization = Quantization::read(json);
        assert_eq!(config.layers.len(), config.num_hidden_layers, "a family sets every layer");
        assert!(config.layers.iter().all(|layer| layer.rope < config.ropes.len()), "a family sets the ropes it names");
        Ok(config)
    }

    /// The keys that all families share. The result is a plain Llama; a family then sets what differs, and always `layers` and
    /// `ropes`.
    pub(super) fn decoder(
        family: &'static str,
        json: &ConfigJson,
        defaults: &Defaults,
    ) -> Result<ModelConfig, ConfigError> {
        if json.get("per_layer_config").is_some() {
            return Err(json.refuse(
                "per_layer_config",
                "no such key: layers that differ in shape are not supported",
                "it",
            ));
        }
        let hidden_size = json.size("hidden_size")?;
        let intermediate_size = json.size("intermediate_size")?;
        let num_hidden_layers = json.size("num_hidden_layers")?;
        if num_hidden_layers > MAX_LAYERS {
            return Err(json.refuse("num_hidden_layers", format!("at most {MAX_LAYERS}"), num_hidden_layers));
        }
        let num_attention_heads = match defaults.num_attention_heads {
            Some(heads) => json.size_or("num_attention_heads", heads)?,
            None => json.size("num_attention_heads")?,
        };
        // An absent key takes the family's number, a null one the number of attention heads.
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
        let vocab_size = match defaults.vocab_size {
            Some(size) => json.size_or("vocab_size", size)?,
            None => json.size("vocab_size")?,
        };
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
            post_norms: false,
            qk_norm: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            fused_projections: false,
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

    /// Sets all layers alike, with the first rope.
    pub(super) fn same_layers(&mut self, sliding_window: Option<usize>) {
        self.layers = vec![LayerConfig { sliding_window, rope: 0 }; self.num_hidden_layers];
    }

    /// Refuses heads that do not divide the hidden size even where `head_dim` is given, as the family's own code does.
    pub(super) fn check_heads_divide_hidden(&self, json: &ConfigJson) -> Result<(), ConfigError> {
        if self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Ok(());
        }
        let expected = format!("a divisor of hidden_size ({})", self.hidden_size);
        Err(json.refuse("num_attention_heads", expected, self.num_attention_heads))
    }

    /// Width of all query heads.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Query heads that share a key head.
    pub fn queries_per_key(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }
}

/// The two kinds of layers in `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerType {
    Full,
    Sliding,
}

/// `layer_types`, one per layer, if the key is there.
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

/// The window of the layers of type [`LayerType::Sliding`].
///
/// # Errors
/// [`ConfigError::Value`] if there are such layers and no window.
pub(super) fn windows(
    json: &ConfigJson,
    types: &[LayerType],
    sliding_window: Option<usize>,
) -> Result<Vec<Option<usize>>, ConfigError> {
    if sliding_window.is_none() && types.contains(&LayerType::Sliding) {
        return Err(json.refuse("sliding_window", "a size, for layers of type sliding_attention", "none in use"));
    }
    let window = |kind: &LayerType| match kind {
        LayerType::Full => None,
        LayerType::Sliding => sliding_window,
    };
    Ok(types.iter().map(window).collect())
}
