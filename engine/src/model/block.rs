//! One decoder layer, for all families. The families differ in which parts a layer has, not in how the parts are computed.

use super::{KvCache, LayerConfig, ModelConfig};
use crate::autograd::{Tape, Var};
use crate::ops::{self, Linear};
use crate::weights::FrozenVector;
use align_kernels::Result;
use align_kernels::attention::Geometry;
use align_kernels::gate::Activation;

/// The weights and constants of one layer.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub attention_norms: Norms,
    /// Query, key and value projections: three matrices, or one (Phi-3). Their outputs are side by side, in this order.
    pub qkv: Vec<Linear>,
    /// Norm of each query and key head, before rope (Qwen 3, Gemma 3).
    pub qk_norm: Option<[FrozenVector; 2]>,
    pub o: Linear,
    pub mlp_norms: Norms,
    /// Gate and up projections: two matrices, or one (Phi-3).
    pub gate_up: Vec<Linear>,
    pub down: Linear,
    pub geometry: Geometry,
    pub rms_norm_eps: f32,
    pub norm_offset: f32,
    pub activation: Activation,
    /// Index into the pass's rope tables.
    pub rope: usize,
}

/// The norms around attention, or around the MLP.
#[derive(Debug, Clone)]
pub(super) enum Norms {
    /// `x + inner(norm(x))`
    Pre(FrozenVector),
    /// `x + after(inner(before(x)))`
    Sandwich { before: FrozenVector, after: FrozenVector },
}

impl Block {
    /// Returns the attention geometry of a layer.
    pub(super) fn geometry(config: &ModelConfig, layer: &LayerConfig) -> Geometry {
        Geometry {
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attn_logit_softcapping,
            sliding_window: layer.sliding_window,
        }
    }

    /// Computes `y = x + attention(norm(x))`, and returns `y + mlp(norm(y))`. With sandwich norms, the outputs of attention and
    /// of the MLP also pass through a norm. If there is a cache, keys and values are stored in it, and rows of the decoding phase
    /// attend to the cache instead of to each other.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub(super) fn forward(&self, tape: &mut Tape, x: &Var, cache: Option<(&mut KvCache, usize)>) -> Result<Var> {
        let h = self.input(tape, x, &self.attention_norms)?;
        let mut qkv = ops::linear(tape, &h, &self.qkv, None)?;
        drop(h);
        if let Some(weights) = &self.qk_norm {
            qkv = ops::head_norm(tape, self.geometry, &qkv, weights, self.rms_norm_eps, self.norm_offset)?;
        }
        let table = tape.pass().ropes[self.rope].clone();
        let rotated = self.geometry.num_attention_heads + self.geometry.num_key_value_heads;
        let qkv = ops::rope(tape, qkv, [rotated, self.geometry.head_dim], &table)?;
        let o = match cache {
            None => ops::attention(tape, self.geometry, &qkv)?,
            Some((cache, layer)) => cache.attention(tape, layer, self.geometry, &qkv)?,
        };
        drop(qkv);
        let x = self.output(tape, x, &o, &self.o, &self.attention_norms)?;
        drop(o);

        let h = self.input(tape, &x, &self.mlp_norms)?;
        let gate_up = ops::linear(tape, &h, &self.gate_up, None)?;
        drop(h);
        let inner = ops::gate(tape, self.activation, &gate_up)?;
        drop(gate_up);
        self.output(tape, &x, &inner, &self.down, &self.mlp_norms)
    }

    /// Returns the input of attention or of the MLP, which is `x` after a norm.
    fn input(&self, tape: &mut Tape, x: &Var, norms: &Norms) -> Result<Var> {
        match norms {
            Norms::Pre(norm) | Norms::Sandwich { before: norm, .. } => self.norm(tape, x, norm),
        }
    }

    /// Returns `x + layer(inner)`, or `x + norm(layer(inner))` if there is an output norm.
    fn output(&self, tape: &mut Tape, x: &Var, inner: &Var, layer: &Linear, norms: &Norms) -> Result<Var> {
        let layer = std::slice::from_ref(layer);
        match norms {
            Norms::Pre(_) => ops::linear(tape, inner, layer, Some(x)),
            Norms::Sandwich { after, .. } => {
                let delta = ops::linear(tape, inner, layer, None)?;
                let delta = self.norm(tape, &delta, after)?;
                ops::add(tape, x, &delta)
            }
        }
    }

    fn norm(&self, tape: &mut Tape, x: &Var, weight: &FrozenVector) -> Result<Var> {
        ops::rms_norm(tape, x, weight, self.rms_norm_eps, self.norm_offset)
    }

    /// Returns the linear layers, in the order of their ids.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        let (o, down) = (std::iter::once(&self.o), std::iter::once(&self.down));
        self.qkv.iter().chain(o).chain(&self.gate_up).chain(down).collect()
    }
}
