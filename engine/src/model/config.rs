//! What a model is: the facts of `config.json` that the generic block needs, read by the model's family and checked.

use super::config_json::{ConfigJson, SHOWN};
use super::rope::RopeConfig;
use crate::json::shorten;
use align_kernels::device::WeightDtype;
use align_kernels::gate::Activation;
use serde_json::Value;

/// A model's shape and its variations on the common decoder block. The names are those in `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name of the family that read the configuration, e.g. `llama`.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads in a layer.
    pub num_attention_heads: usize,
    /// Number of key heads in a layer, which is also the number of value heads. It is a divisor of `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Number of rows of the embedding.
    pub vocab_size: usize,
    /// Number of positions that the model was made for. Longer sequences can be computed too.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Whether `lm_head` is the embedding.
    pub tie_word_embeddings: bool,
    /// Added to every norm's weight: 1 for the Gemma families.
    pub norm_offset: f32,
    /// Where a layer has norms. All layers have them at the same places.
    pub norm_placement: NormPlacement,
    /// Which norms q and k have. Only Qwen 3 and Gemma 3 have them, one on each head.
    pub qk_norm: QkNorm,
    /// Which projections of attention have a bias. In Qwen 2, these are q, k and v.
    pub attention_bias: AttentionBias,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Which projections share a matrix. Phi 3 has fewer, larger matrices.
    pub fusion: Fusion,
    /// The gate's activation function.
    pub activation: Activation,
    /// Multiplies the embeddings: 1, or `sqrt(hidden_size)` for the Gemma families.
    pub embedding_scale: f32,
    /// Multiplies `q . k`. It is `1 / sqrt(head_dim)`, or `1 / sqrt(query_pre_attn_scalar)` for Gemma 2 and 3.
    pub attention_scale: f32,
    /// The `cap` of `cap * tanh(x / cap)`, which is applied to attention scores.
    pub attn_logit_softcapping: Option<f32>,
    /// The `cap` of `cap * tanh(x / cap)`, which is applied to the logits.
    pub final_logit_softcapping: Option<f32>,
    /// What differs from layer to layer, one entry for each layer.
    pub layers: Vec<LayerConfig>,
    /// The position encodings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// Ids that end a sequence, according to `config.json`. [`stop_token_ids`](crate::model::stop_token_ids) also reads
    /// `generation_config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Id that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// The token that other software pads a batch with, from `config.json` or the family's default. A reward model skips it: the
    /// score of a sequence is the score of its last token that is not padding.
    pub pad_token_id: Option<u32>,
    /// The number format of the weights according to config.json. If there are weight files, their own formats are used instead.
    pub dtype: Option<String>,
    /// The quantisation of the weights according to config.json. If there are weight files, they decide whether weights are
    /// quantised.
    pub quantization: Option<Quantization>,
    /// The type of `rope_scaling`, if config.json has it only under the older key `type` and transformers therefore ignores it.
    pub old_rope_key: Option<String>,
    /// Whether the keys in the cache must be computed again once a sequence is longer than its rope frequencies are meant for.
    pub cache_follows_rope: bool,
    /// Possible prefixes of `embed_tokens` and `layers` in the names of tensors. The first one that the files have is used.
    pub tensor_prefixes: &'static [&'static str],
    /// The prefix of module names in adapters, e.g. `model.`
    pub module_prefix: &'static str,
}

/// Where a layer has norms around attention and MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// On the inputs of attention and MLP.
    Pre,
    /// On the inputs of attention and MLP, and on their outputs before these are added to the residual stream.
    Sandwich,
}

/// The norms on q and k before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// No norms.
    None,
    /// One norm on each head.
    PerHead,
}

/// Which projections of attention have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// No projection has a bias.
    None,
    /// Q, k and v.
    Qkv,
    /// Q, k, v and o.
    All,
}

/// Which projections are stored as one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fusion {
    /// Each projection is its own matrix.
    None,
    /// Q, k and v are one matrix, gate and up another.
    QkvAndGateUp,
}

/// The settings that may differ from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// A key is visible if it is fewer than this many positions back; the token itself is 0 back. `None`: all keys are visible.
    pub sliding_window: Option<usize>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

/// A quantisation that config.json names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// The key of config.json that names the quantisation.
    pub key: &'static str,
    /// The method and its bits, e.g. `gptq, 4 bits`.
    pub method: String,
}

impl Quantization {
    /// Keys of config.json that can name a quantisation. Only MLX uses the last one.
    pub const KEYS: [&str; 2] = ["quantization_config", "quantization"];

    /// Reads what config.json says about quantisation. Accepts any content, because the weight files decide whether weights are
    /// quantised.
    pub(super) fn read(json: &ConfigJson) -> Option<Quantization> {
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

impl ModelConfig {
    /// Returns the number format that config.json gives for the weights, for use without weight files. Returns bf16 if
    /// config.json names no supported format.
    pub fn weight_dtype(&self) -> WeightDtype {
        match self.dtype.as_deref() {
            Some("float32") => WeightDtype::F32,
            Some("float16") => WeightDtype::F16,
            _ => WeightDtype::Bf16,
        }
    }

    /// Returns the width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Returns the width of all key heads together, which is also that of all value heads.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
