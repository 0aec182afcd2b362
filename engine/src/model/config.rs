//! What a model is: the facts of `config.json`, read by its family and checked, that the generic block runs on.

use super::config_json::{ConfigJson, SHOWN};
use super::rope::RopeConfig;
use crate::json::shorten;
use align_kernels::device::WeightDtype;
use align_kernels::gate::Activation;
use serde_json::Value;

/// A model's shape and its variations on the common decoder block. Names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name of the family that read it, e.g. `llama`.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers of the decoder.
    pub num_hidden_layers: usize,
    /// Query heads of a layer.
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions that the model was made for; not a limit of the computation.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Whether `lm_head` is the embedding.
    pub tie_word_embeddings: bool,
    /// Added to every norm's weight: 1 for the Gemma families.
    pub norm_offset: f32,
    /// The same in every layer.
    pub norm_placement: NormPlacement,
    /// Per head for Qwen 3 and Gemma 3.
    pub qk_norm: QkNorm,
    /// On q, k and v for Qwen 2.
    pub attention_bias: AttentionBias,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Phi 3 has fewer, larger matrices.
    pub fusion: Fusion,
    /// The gate's activation function.
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
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// The token with which other software pads a batch, from `config.json` or the family's default. A reward model does not
    /// score it: the score of a text is that of its last other token.
    pub pad_token_id: Option<u32>,
    /// The number format that config.json names; the weight files decide.
    pub dtype: Option<String>,
    /// The quantisation that config.json names; the weight files decide.
    pub quantization: Option<Quantization>,
    /// The type of `rope_scaling`, if it has the older key `type` and transformers therefore drops it.
    pub old_rope_key: Option<String>,
    /// Whether a text that outgrows the range of its rope frequencies needs new keys in the cache.
    pub cache_follows_rope: bool,
    /// Prefixes of `embed_tokens` and `layers` in the names of tensors. The first one that the files have is used.
    pub tensor_prefixes: &'static [&'static str],
    /// The same in the names that adapters use, e.g. `model.`
    pub module_prefix: &'static str,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// On the inputs of attention and MLP.
    Pre,
    /// On their inputs, and on their outputs before these are added to the residual stream.
    Sandwich,
}

/// The norms on q and k before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// One norm on each head.
    PerHead,
}

/// Which projections of attention have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None of them.
    None,
    /// Q, k and v.
    Qkv,
    /// Q, k, v and o.
    All,
}

/// Which projections are stored as one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fusion {
    /// Every one is a matrix of its own.
    None,
    /// Q, k and v are one matrix, gate and up another.
    QkvAndGateUp,
}

/// How one layer differs from its neighbours.
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
    /// The key that names it.
    pub key: &'static str,
    /// The method and its bits, e.g. `gptq, 4 bits`.
    pub method: String,
}

impl Quantization {
    /// Keys of config.json that hold it. The last is MLX's own.
    pub const KEYS: [&str; 2] = ["quantization_config", "quantization"];

    /// Reads what a stranger's file says about it. This may be anything, since the weights decide.
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
    /// The number format that config.json says the weights have, where no file can be asked; bf16 if it says none that is
    /// supported.
    pub fn weight_dtype(&self) -> WeightDtype {
        match self.dtype.as_deref() {
            Some("float32") => WeightDtype::F32,
            Some("float16") => WeightDtype::F16,
            _ => WeightDtype::Bf16,
        }
    }

    /// Width of all query heads.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
