//! Makes the parts of a model from its weight files, or from the configuration alone.

use super::block::{Block, Norms};
use super::layout::{Layout, Norm, Projection};
use super::{ModelConfig, NormPlacement, QkNorm};
use crate::ops::Linear;
use crate::weights::{BASE_WEIGHTS, Frozen, FrozenVector, LoadError, ReadAhead, WeightFiles};
use align_kernels::device::WeightBuffer;
use align_kernels::{Count, Device};
use std::sync::Arc;

/// Where weights come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Files(&'a WeightFiles),
    /// No files: a counting device needs only the shapes.
    Absent(&'a Arc<Count>),
}

/// Makes the parts of a model with the weights from `source`.
pub(super) struct Loader<'a> {
    device: &'a Device,
    config: &'a ModelConfig,
    source: Source<'a>,
    layout: Layout,
    head_is_tied: bool,
}

/// The parts of a model outside its layers: the embedding, the final norm and the head.
pub(super) struct Ends {
    pub embed_tokens: Frozen,
    pub norm: FrozenVector,
    pub lm_head: Frozen,
}

impl<'a> Loader<'a> {
    /// Makes a loader of the weights in `files`.
    ///
    /// # Errors
    /// The errors of [`Layout::fitted`].
    pub(super) fn new(
        device: &'a Device,
        config: &'a ModelConfig,
        files: &'a WeightFiles,
    ) -> Result<Loader<'a>, LoadError> {
        let layout = Layout::fitted(config, files)?;
        let head_is_tied = layout.head_is_tied(config, files);
        Ok(Loader { device, config, source: Source::Files(files), layout, head_is_tied })
    }

    /// Makes a loader that needs no files. Its matrices have shapes but no values, and its vectors are zeros. `device` must be
    /// the counting device of `count`.
    pub(super) fn absent(device: &'a Device, count: &'a Arc<Count>, config: &'a ModelConfig) -> Loader<'a> {
        let layout = Layout::new(config.tensor_prefixes[0]);
        Loader { device, config, source: Source::Absent(count), layout, head_is_tied: config.tie_word_embeddings }
    }

    fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Frozen, LoadError> {
        match self.source {
            Source::Files(files) => files.frozen(self.device, name, shape),
            Source::Absent(count) => {
                let weights =
                    WeightBuffer::absent(count, BASE_WEIGHTS, self.config.weight_dtype(), shape[0] * shape[1]);
                Ok(Frozen::new(name, shape, weights))
            }
        }
    }

    fn vector(&self, name: &str, len: usize) -> Result<FrozenVector, LoadError> {
        match self.source {
            Source::Files(files) => files.vector(self.device, name, len),
            Source::Absent(_) => Ok(FrozenVector::zeros(self.device, name, len)?),
        }
    }

    /// Makes the layers, in order.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn blocks(&self) -> Result<Vec<Arc<Block>>, LoadError> {
        (0..self.config.num_hidden_layers).map(|layer_idx| Ok(Arc::new(self.block(layer_idx)?))).collect()
    }

    fn block(&self, layer_idx: usize) -> Result<Block, LoadError> {
        let config = self.config;
        let layer = &config.layers[layer_idx];
        let linears = |projections: &[Projection]| -> Result<Vec<Linear>, LoadError> {
            projections.iter().map(|&projection| self.linear(layer_idx, projection)).collect()
        };
        let norm = |norm| self.norm(layer_idx, norm);
        Ok(Block {
            attention_norms: self.norms(layer_idx, Norm::PreAttention, Norm::PostAttention)?,
            qkv: linears(config.fusion.qkv())?,
            qk_norm: match config.qk_norm {
                QkNorm::None => None,
                QkNorm::PerHead => Some([norm(Norm::Q)?, norm(Norm::K)?]),
            },
            o: self.linear(layer_idx, Projection::O)?,
            mlp_norms: self.norms(layer_idx, Norm::PreMlp, Norm::PostMlp)?,
            gate_up: linears(config.fusion.gate_up())?,
            down: self.linear(layer_idx, Projection::Down)?,
            geometry: Block::geometry(config, layer),
            rms_norm_eps: config.rms_norm_eps,
            norm_offset: config.norm_offset,
            activation: config.activation,
            rope: layer.rope,
        })
    }

    fn linear(&self, layer_idx: usize, projection: Projection) -> Result<Linear, LoadError> {
        let shape = projection.shape(self.config);
        let weight = self.matrix(&self.layout.weight(layer_idx, projection), shape)?;
        let bias = match projection.has_bias(self.config) {
            true => Some(self.vector(&self.layout.bias(layer_idx, projection), shape[0])?),
            false => None,
        };
        Ok(Linear { id: self.config.linear_id(layer_idx, projection), weight, bias })
    }

    fn norms(&self, layer_idx: usize, before: Norm, after: Norm) -> Result<Norms, LoadError> {
        let norm = |norm| self.norm(layer_idx, norm);
        Ok(match self.config.norm_placement {
            NormPlacement::Pre => Norms::Pre(norm(before)?),
            NormPlacement::Sandwich => Norms::Sandwich { before: norm(before)?, after: norm(after)? },
        })
    }

    fn norm(&self, layer_idx: usize, norm: Norm) -> Result<FrozenVector, LoadError> {
        let name = self.layout.norm(layer_idx, norm, self.config);
        self.vector(&name, norm.len(self.config))
    }

    /// Makes the embedding, the final norm and the head.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn ends(&self) -> Result<Ends, LoadError> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        let embed_tokens = self.matrix(&self.layout.embed_tokens(), shape)?;
        let lm_head = match self.head_is_tied {
            true => embed_tokens.clone(),
            false => self.matrix(&self.layout.lm_head(), shape)?,
        };
        let norm = self.vector(&self.layout.final_norm(), self.config.hidden_size)?;
        Ok(Ends { embed_tokens, norm, lm_head })
    }

    /// Returns the bytes of all tensors that the model uses, in the format of their files. 0 if there are no files.
    pub(super) fn bytes(&self) -> u64 {
        let Source::Files(files) = self.source else { return 0 };
        let tensors = self.layout.tensors(self.config);
        let bytes_of = |(name, _): &(String, _)| files.get(name).map_or(0, |(tensor, _)| tensor.bytes.len() as u64);
        tensors.iter().map(bytes_of).sum()
    }

    /// Starts to read the matrices ahead of the computation. Stage i is layer i; the last stage is the head. `None` if there are
    /// no files, if the matrices fit into `free_bytes` with room to spare, or if no thread can start.
    pub(super) fn read_ahead(&self, free_bytes: u64) -> Option<Arc<ReadAhead>> {
        let Source::Files(files) = self.source else { return None };
        let head = if self.head_is_tied { self.layout.embed_tokens() } else { self.layout.lm_head() };
        let projections = self.config.projections();
        let layer = |layer_idx| projections.iter().map(|&part| self.layout.weight(layer_idx, part)).collect();
        let stages = (0..self.config.num_hidden_layers).map(layer).chain([vec![head]]);
        let pages = |names: Vec<String>| names.iter().filter_map(|name| files.pages(name)).collect();
        ReadAhead::new(stages.map(pages).collect(), free_bytes)
    }
}
