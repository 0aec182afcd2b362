//! A decoder-only transformer over frozen weights: the forward pass, log-probs, logits.

use super::block::Block;
use super::load::{Ends, Loader};
use super::{KvCache, LinearInfo, ModelConfig, RopeConfig};
use crate::adapters::{Adapters, LinearId};
use crate::autograd::{Layer, Mode, Tape, Var, recompute};
use crate::error::EngineError;
use crate::ops::{self, ScoredRows, ScoredTokens, TokenLogps};
use crate::param::Param;
use crate::pass::{Masks, Pass, RopeTable};
use crate::rows::RowPlan;
use crate::weights::{BASE_WEIGHTS, Frozen, FrozenVector, ReadAhead, Then, WeightFiles};
use align_kernels::device::WeightDtype;
use align_kernels::gemm::{self, Accumulate};
use align_kernels::softcap::Softcap;
use align_kernels::{Buffer, Count, Device, Indices, Precision, Result};
use std::rc::Rc;
use std::sync::Arc;

/// A model on a device. The matrices stay in their mapped files unless the device needs a copy.
#[derive(Debug)]
pub struct Model {
    device: Device,
    config: ModelConfig,
    embed_tokens: Frozen,
    blocks: Vec<Arc<Block>>,
    norm: FrozenVector,
    lm_head: Frozen,
    linears: Vec<LinearInfo>,
    /// Reads the weights ahead of a pass. Stage i is layer i; the last stage is the head. `None` if the weights fit in memory
    /// with room to spare, if the model has none, or if no thread could start.
    read_ahead: Option<Arc<ReadAhead>>,
}

/// The tokens of a forward pass, and which of them are scored.
#[derive(Debug)]
pub struct Inputs {
    /// Token ids, one for each row of the pass's plan.
    pub ids: Indices,
    /// The rows of the plan that are scored, each with the token that follows it.
    pub scored: ScoredTokens,
    /// Number above 0 by which the logits are divided before their softmax. The log-probs are then those of a sampler at this
    /// temperature.
    pub temperature: f32,
    /// Whether to compute entropy and the other extras of the scored tokens too.
    pub with_extras: bool,
}

impl Model {
    /// Makes the model with the weights in `files` that `config` implies.
    ///
    /// # Errors
    /// [`EngineError`] if a tensor is missing, has another shape than the configuration implies, or has a format that is not
    /// supported.
    pub fn load(device: &Device, config: ModelConfig, files: &WeightFiles) -> Result<Model, EngineError> {
        // what was copied to a card needs no pages of the files any more
        let free_bytes = if device.reads_host_memory() { device.free_bytes()? } else { u64::MAX };
        Model::load_beside(device, config, files, free_bytes)
    }

    /// Does the same as [`Model::load`] on a machine with `free_bytes` of free memory. That number decides whether pages are read
    /// ahead of the computation.
    ///
    /// # Errors
    /// The errors of [`Model::load`].
    pub fn load_beside(
        device: &Device,
        config: ModelConfig,
        files: &WeightFiles,
        free_bytes: u64,
    ) -> Result<Model, EngineError> {
        let loader = Loader::new(device, &config, files)?;
        if !device.reads_host_memory() {
            device.reserve(BASE_WEIGHTS, loader.bytes())?;
        }
        let read_ahead = loader.read_ahead(free_bytes);
        let blocks = loader.blocks()?;
        let Ends { embed_tokens, norm, lm_head } = loader.ends()?;
        let (device, linears) = (device.clone(), config.linears());
        Ok(Model { device, config, embed_tokens, blocks, norm, lm_head, linears, read_ahead })
    }

    /// Makes a model without weights on a counting device. Its passes compute nothing: they count the memory and work that a real
    /// model would need.
    pub fn absent(count: &Arc<Count>, config: ModelConfig) -> Model {
        const SOUND: &str = "weights that are not there have every shape, and no memory is refused to them";
        let device = Device::Count(count.clone());
        let loader = Loader::absent(&device, count, &config);
        let blocks = loader.blocks().expect(SOUND);
        let Ends { embed_tokens, norm, lm_head } = loader.ends().expect(SOUND);
        let linears = config.linears();
        Model { device, config, embed_tokens, blocks, norm, lm_head, linears, read_ahead: None }
    }

    /// Returns the number format of the first matrix of the first layer.
    pub fn weight_dtype(&self) -> WeightDtype {
        self.blocks[0].linears()[0].weight.dtype()
    }

    /// Returns the bytes of all matrices, in the format of their files. If the embedding is also the head, it counts once.
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.blocks.iter().flat_map(|block| block.linears()).map(|linear| linear.weight.bytes() as u64);
        let is_embedding = self.lm_head.name() == self.embed_tokens.name();
        let head = if is_embedding { 0 } else { self.lm_head.bytes() as u64 };
        layers.sum::<u64>() + self.embed_tokens.bytes() as u64 + head
    }

    /// Returns the bytes of weights that were copied because the device could not use them in their file.
    pub fn copied_bytes(&self) -> u64 {
        self.device.memory().of(BASE_WEIGHTS).in_use as u64
    }

    /// Returns the device that the model runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the checked configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns all linear layers of the decoder, in the order of their ids. The head is not among them.
    pub fn linears(&self) -> &[LinearInfo] {
        &self.linears
    }

    /// Returns the frozen weight of a linear layer, e.g. to merge an adapter into it.
    pub fn linear_weight(&self, id: LinearId) -> &Frozen {
        let per_block = self.blocks[0].linears().len();
        let block = &self.blocks[id.0 / per_block];
        &block.linears()[id.0 % per_block].weight
    }

    /// Makes what the ops of one forward pass share: rope tables for the plan's positions, the adapters, the masks and the
    /// precision.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn pass(
        &self,
        plan: RowPlan,
        adapters: Adapters,
        masks: Option<Masks>,
        precision: Precision,
    ) -> Result<Rc<Pass>> {
        let ropes = self.rope_tables(&plan.positions(), &plan.sequence_lengths())?;
        Pass::new(&self.device, plan, ropes, adapters, masks, precision)
    }

    /// Computes the cosines and sines of each row, for each position encoding of the model. Row r is at `positions[r]` of a
    /// sequence of `lengths[r]` tokens.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn rope_tables(&self, positions: &[u32], lengths: &[usize]) -> Result<Vec<Rc<RopeTable>>> {
        let table = |rope: &RopeConfig| rope.table(&self.device, positions, lengths).map(Rc::new);
        self.config.ropes.iter().map(table).collect()
    }

    /// Whether two sequences of these lengths are rotated by the same angles, so that they may share a prompt.
    pub fn same_rope(&self, one: usize, other: usize) -> bool {
        self.config.ropes.iter().all(|rope| rope.variant_key(one) == rope.variant_key(other))
    }

    /// Whether the cached keys of a sequence that grows from `before` to `now` tokens are stale, because transformers would now
    /// rotate them differently. That happens only with Phi 3.
    pub fn cache_is_stale(&self, before: usize, now: usize) -> bool {
        self.config.cache_follows_rope && !self.same_rope(before, now)
    }

    /// Embeds the tokens `ids` and runs the first layer on them. The backward pass recomputes the layer, so the two passes need
    /// no more memory than passes that recompute all layers. The cost of the other layers is estimated from this one.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn first_layer(&self, tape: &mut Tape, ids: &Indices) -> Result<Var> {
        let x = self.embed(tape, ids)?;
        self.layer(tape, 0, |tape, block| recompute(tape, &x, recomputable(block)))
    }

    /// Runs layer `layer_idx` and notifies the read-ahead when a pass reaches it, forward and backward.
    fn layer(
        &self,
        tape: &mut Tape,
        layer_idx: usize,
        forward: impl FnOnce(&mut Tape, &Arc<Block>) -> Result<Var>,
    ) -> Result<Var> {
        let block = &self.blocks[layer_idx];
        let Some(read_ahead) = self.read_ahead.clone() else { return forward(tape, block) };
        read_ahead.reached(layer_idx);
        let y = forward(tape, block)?;
        tape.on_return(move || read_ahead.reached(layer_idx));
        Ok(y)
    }

    /// Computes the log-probs of the scored tokens. The last `layers_kept` layers keep what their backward pass needs; the other
    /// layers are recomputed from their inputs. `layers_kept` has no effect on a tape that does not record.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn token_logps(&self, tape: &mut Tape, inputs: &Inputs, layers_kept: usize) -> Result<TokenLogps> {
        let x = self.final_states(tape, &inputs.ids, &inputs.scored.rows, inputs.scored.policy, layers_kept)?;
        let cap = self.config.final_logit_softcapping;
        ops::token_logps(tape, &x, &self.lm_head, &inputs.scored, cap, inputs.temperature, inputs.with_extras)
    }

    /// Scores the rows `scored.rows` with a reward model's head. The result is `[scored.rows.len(), 1]`. Does not use the
    /// language model's head. `ids` and `layers_kept` are as in [`Model::token_logps`].
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn scores(
        &self,
        tape: &mut Tape,
        ids: &Indices,
        scored: &ScoredRows,
        head: &Param,
        layers_kept: usize,
    ) -> Result<Var> {
        let x = self.final_states(tape, ids, &scored.rows, scored.policy, layers_kept)?;
        ops::score_head(tape, &x, head)
    }

    /// Computes the hidden states of the rows in `index`, after the final norm. The first `policy` of these rows have a gradient.
    fn final_states(
        &self,
        tape: &mut Tape,
        ids: &Indices,
        index: &Rc<Indices>,
        policy: usize,
        layers_kept: usize,
    ) -> Result<Var> {
        let mut x = self.embed(tape, ids)?;
        let recomputed = self.blocks.len().saturating_sub(layers_kept);
        for layer_idx in 0..self.blocks.len() {
            x = self.layer(tape, layer_idx, |tape, block| match layer_idx < recomputed {
                true => recompute(tape, &x, recomputable(block)),
                false => block.forward(tape, &x, None),
            })?;
        }
        let x = ops::gather_rows(tape, &x, index, policy)?;
        self.final_norm(tape, &x)
    }

    /// Computes the logits of the rows in `index`, `[index.len(), vocab_size]`. Stores the keys and values of all rows in
    /// `cache`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn logits(&self, tape: &mut Tape, ids: &Indices, index: Vec<u32>, cache: &mut KvCache) -> Result<Buffer<f32>> {
        let mut x = self.embed(tape, ids)?;
        for layer_idx in 0..self.blocks.len() {
            x = self.layer(tape, layer_idx, |tape, block| block.forward(tape, &x, Some((&mut *cache, layer_idx))))?;
        }
        let index = Rc::new(self.device.upload_indices("logits.rows", &index)?);
        let x = ops::gather_rows(tape, &x, &index, 0)?;
        let x = self.final_norm(tape, &x)?;
        let [vocab_size, hidden_size] = self.lm_head.shape();
        let mut logits = self.device.alloc("logits", x.rows() * vocab_size)?;
        gemm::Forward {
            m: x.rows(),
            n: vocab_size,
            k: hidden_size,
            alpha: 1.0,
            x: x.view(),
            w: self.lm_head.view(),
            y: logits.view_mut().into(),
            accumulate: Accumulate::Set,
            precision: tape.precision(),
        }
        .run(&self.device)?;
        if let Some(cap) = self.config.final_logit_softcapping {
            Softcap { len: logits.len(), cap, x: logits.view_mut() }.run(&self.device)?;
        }
        Ok(logits)
    }

    fn embed(&self, tape: &mut Tape, ids: &Indices) -> Result<Var> {
        ops::embed(tape, ids, &self.embed_tokens, self.config.embedding_scale)
    }

    fn final_norm(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        if let Some(read_ahead) = &self.read_ahead {
            read_ahead.reached_end(match tape.mode() {
                Mode::Record => Then::BackwardPass,
                Mode::Inference => Then::NextPass,
            });
        }
        ops::rms_norm(tape, x, &self.norm, self.config.rms_norm_eps, self.config.norm_offset)
    }
}

/// Returns the layer as a function, which the backward pass can run again.
fn recomputable(block: &Arc<Block>) -> Layer {
    let block = block.clone();
    Rc::new(move |tape, x| block.forward(tape, x, None))
}
