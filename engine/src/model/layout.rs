//! The names and shapes of a model's tensors.
//!
//! The module paths are those of transformers. Adapters and their target lists use the same paths.

use super::config::{AttentionBias, Fusion, ModelConfig, NormPlacement, QkNorm};
use crate::adapters::LinearId;
use crate::weights::WeightFiles;

/// A matrix of the block, as the family stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// All query heads.
    Q,
    /// All key heads.
    K,
    /// All value heads.
    V,
    /// From the heads back to the residual stream.
    O,
    /// The MLP projection that the activation is applied to.
    Gate,
    /// The MLP projection that the gate multiplies.
    Up,
    /// From the MLP back to the residual stream.
    Down,
    /// The rows of q, then of k, then of v, in one matrix.
    Qkv,
    /// The rows of gate, then of up, in one matrix.
    GateUp,
}

impl Projection {
    /// Returns the name of the projection's module within a layer, e.g. `self_attn.q_proj`.
    pub const fn path(self) -> &'static str {
        match self {
            Projection::Q => "self_attn.q_proj",
            Projection::K => "self_attn.k_proj",
            Projection::V => "self_attn.v_proj",
            Projection::O => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
            Projection::Qkv => "self_attn.qkv_proj",
            Projection::GateUp => "mlp.gate_up_proj",
        }
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        match self {
            Projection::Q => [config.q_size(), hidden],
            Projection::K | Projection::V => [config.kv_size(), hidden],
            Projection::O => [hidden, config.q_size()],
            Projection::Gate | Projection::Up => [intermediate, hidden],
            Projection::Down => [hidden, intermediate],
            Projection::Qkv => [config.q_size() + 2 * config.kv_size(), hidden],
            Projection::GateUp => [2 * intermediate, hidden],
        }
    }

    /// Whether the projection has a bias, `[out_features]`.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Projection::Q | Projection::K | Projection::V | Projection::Qkv => {
                config.attention_bias != AttentionBias::None
            }
            Projection::O => config.attention_bias == AttentionBias::All,
            Projection::Gate | Projection::Up | Projection::Down | Projection::GateUp => config.mlp_bias,
        }
    }
}

/// Name and shape of a linear layer, as adapters address it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearInfo {
    /// Its place in [`ModelConfig::linears`].
    pub id: LinearId,
    /// Module path in the Hugging Face model, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Columns of its weight.
    pub in_features: usize,
    /// Rows of its weight.
    pub out_features: usize,
}

/// A norm of a layer. Each variant says what the norm is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// The input of attention.
    PreAttention,
    /// The output of attention, before it is added to the residual stream.
    PostAttention,
    /// The input of the MLP.
    PreMlp,
    /// The output of the MLP, before it is added to the residual stream.
    PostMlp,
    /// Each head of q.
    Q,
    /// Each head of k.
    K,
}

impl Norm {
    /// Returns the name of the norm's module within a layer. `post_attention_layernorm` has two meanings: if attention has no
    /// norm on its output, it is the norm before the MLP.
    pub fn path(self, config: &ModelConfig) -> &'static str {
        match (self, config.norm_placement) {
            (Norm::PreAttention, _) => "input_layernorm",
            (Norm::PreMlp, NormPlacement::Sandwich) => "pre_feedforward_layernorm",
            (Norm::PreMlp, NormPlacement::Pre) | (Norm::PostAttention, _) => "post_attention_layernorm",
            (Norm::PostMlp, _) => "post_feedforward_layernorm",
            (Norm::Q, _) => "self_attn.q_norm",
            (Norm::K, _) => "self_attn.k_norm",
        }
    }

    /// Returns the number of elements of the norm's weight.
    pub fn len(self, config: &ModelConfig) -> usize {
        match self {
            Norm::Q | Norm::K => config.head_dim,
            Norm::PreAttention | Norm::PostAttention | Norm::PreMlp | Norm::PostMlp => config.hidden_size,
        }
    }
}

impl Fusion {
    /// Returns the matrices that compute q, k and v.
    pub fn qkv(self) -> &'static [Projection] {
        match self {
            Fusion::None => &[Projection::Q, Projection::K, Projection::V],
            Fusion::QkvAndGateUp => &[Projection::Qkv],
        }
    }

    /// Returns the matrices that compute gate and up.
    pub fn gate_up(self) -> &'static [Projection] {
        match self {
            Fusion::None => &[Projection::Gate, Projection::Up],
            Fusion::QkvAndGateUp => &[Projection::GateUp],
        }
    }
}

impl ModelConfig {
    /// Returns the matrices of a layer, in order of use.
    pub fn projections(&self) -> Vec<Projection> {
        [self.fusion.qkv(), &[Projection::O], self.fusion.gate_up(), &[Projection::Down]].concat()
    }

    /// Returns the linear layers of the decoder, in order of use and of id. The head is not among them.
    pub fn linears(&self) -> Vec<LinearInfo> {
        let projections = self.projections();
        let layers = 0..self.num_hidden_layers;
        let places = layers.flat_map(|layer_idx| projections.iter().map(move |&projection| (layer_idx, projection)));
        let info = |(layer_idx, projection): (usize, Projection)| {
            let [out_features, in_features] = projection.shape(self);
            let id = self.linear_id(layer_idx, projection);
            LinearInfo { id, name: self.module_path(layer_idx, projection), in_features, out_features }
        };
        places.map(info).collect()
    }

    /// Returns the id of a projection.
    ///
    /// # Panics
    /// If the layers of this model do not have the projection.
    pub(super) fn linear_id(&self, layer_idx: usize, projection: Projection) -> LinearId {
        let projections = self.projections();
        let place = projections.iter().position(|&other| other == projection).expect("a projection of this model");
        LinearId(layer_idx * projections.len() + place)
    }

    /// Returns the norms of a layer, in order of use.
    pub fn norms(&self) -> Vec<Norm> {
        use Norm::*;
        let qk: &[Norm] = match self.qk_norm {
            QkNorm::None => &[],
            QkNorm::PerHead => &[Q, K],
        };
        let others: &[Norm] = match self.norm_placement {
            NormPlacement::Pre => &[PreMlp],
            NormPlacement::Sandwich => &[PostAttention, PreMlp, PostMlp],
        };
        [&[PreAttention], qk, others].concat()
    }

    /// Returns the module of a projection as adapters name it, e.g. `model.layers.0.self_attn.q_proj`.
    pub fn module_path(&self, layer_idx: usize, projection: Projection) -> String {
        format!("{}layers.{layer_idx}.{}", self.module_prefix, projection.path())
    }

    /// Counts the elements of all weights that the model uses.
    pub fn parameters(&self) -> u64 {
        let tensors = Layout::new(self.tensor_prefixes[0]).tensors(self);
        // Sizes are at most 2^24, and at most 1024 layers have 7 matrices each (fused ones count as several), so the sum is below
        // 2^61.
        tensors.iter().map(|(_, shape)| shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    }
}

/// The names of the tensors in the weight files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    prefix: &'static str,
    head: &'static str,
    embedding: EmbeddingName,
}

/// The name under which the files hold the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EmbeddingName {
    Own,
    /// The name of the head: the embedding and the head share a tensor, and the file holds it under the head's name.
    Head,
}

/// Names under which files store the head. The second and third have a prefix for the whole model or for its language model.
const HEADS: [&str; 3] = ["lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight"];

impl Layout {
    /// Returns the names under a prefix, one of [`ModelConfig::tensor_prefixes`].
    pub fn new(prefix: &'static str) -> Layout {
        let head = if prefix == "language_model.model." { "language_model.lm_head.weight" } else { "lm_head.weight" };
        Layout { prefix, head, embedding: EmbeddingName::Own }
    }

    /// Returns the names that `files` use, with the first prefix that fits. If none fits, uses the first prefix. Loading then
    /// says which tensor is missing.
    pub fn of(config: &ModelConfig, files: &WeightFiles) -> Layout {
        let layouts = config.tensor_prefixes.iter().map(|prefix| Layout::new(prefix));
        let fits = |layout: &Layout| {
            files.contains(&layout.embed_tokens()) || files.contains(&layout.norm(0, Norm::PreAttention, config))
        };
        let mut layout = layouts.clone().find(fits).unwrap_or(Layout::new(config.tensor_prefixes[0]));
        if !files.contains(layout.head) {
            layout.head = HEADS.into_iter().find(|head| files.contains(head)).unwrap_or(layout.head);
        }
        if config.tie_word_embeddings && !files.contains(&layout.embed_tokens()) && files.contains(layout.head) {
            layout.embedding = EmbeddingName::Head;
        }
        layout
    }

    /// Returns the name of the embedding, `[vocab_size, hidden_size]`.
    pub fn embed_tokens(&self) -> String {
        match self.embedding {
            EmbeddingName::Own => format!("{}embed_tokens.weight", self.prefix),
            EmbeddingName::Head => self.head.to_owned(),
        }
    }

    /// Returns the name of the norm before the head, `[hidden_size]`.
    pub fn final_norm(&self) -> String {
        format!("{}norm.weight", self.prefix)
    }

    /// Returns the name of the head, `[vocab_size, hidden_size]`. The files need not hold it if it is tied to the embedding.
    pub fn lm_head(&self) -> String {
        self.head.to_owned()
    }

    /// Whether the head is the embedding. `config.json` decides, unless the files hold a head that differs from the embedding:
    /// then that head is used, as in transformers. A stored copy of the embedding is not used.
    pub fn head_is_tied(&self, config: &ModelConfig, files: &WeightFiles) -> bool {
        config.tie_word_embeddings && files.equal(&self.lm_head(), &self.embed_tokens()) != Some(false)
    }

    /// Returns the name of a projection's matrix.
    pub fn weight(&self, layer_idx: usize, projection: Projection) -> String {
        format!("{}layers.{layer_idx}.{}.weight", self.prefix, projection.path())
    }

    /// Returns the name of the bias of a projection that has one.
    pub fn bias(&self, layer_idx: usize, projection: Projection) -> String {
        format!("{}layers.{layer_idx}.{}.bias", self.prefix, projection.path())
    }

    /// Returns the name of a norm's weight.
    pub fn norm(&self, layer_idx: usize, norm: Norm, config: &ModelConfig) -> String {
        format!("{}layers.{layer_idx}.{}.weight", self.prefix, norm.path(config))
    }

    /// Returns the name and shape of every tensor that a model of this configuration uses.
    pub fn tensors(&self, config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let embedding = vec![config.vocab_size, config.hidden_size];
        let mut tensors = vec![(self.embed_tokens(), embedding.clone())];
        for layer_idx in 0..config.num_hidden_layers {
            for norm in config.norms() {
                tensors.push((self.norm(layer_idx, norm, config), vec![norm.len(config)]));
            }
            for projection in config.projections() {
                let shape = projection.shape(config);
                tensors.push((self.weight(layer_idx, projection), shape.to_vec()));
                if projection.has_bias(config) {
                    tensors.push((self.bias(layer_idx, projection), vec![shape[0]]));
                }
            }
        }
        tensors.push((self.final_norm(), vec![config.hidden_size]));
        if !config.tie_word_embeddings {
            tensors.push((self.lm_head(), embedding));
        }
        tensors
    }
}
