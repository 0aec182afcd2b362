//! One decoder layer, for all families: they differ in what is present, not in how it is computed.

use super::adapters::LinearId;
use super::{LayerConfig, ModelConfig};
use crate::autograd::{Tape, Var};
use crate::generate::KvCache;
use crate::ops::{self, Linear};
use crate::weights::FrozenVector;
use align_kernels::Result;
use align_kernels::attention::Geometry;
use align_kernels::gate::Activation;

/// Query, key and value projections: three matrices, or one fused (Phi-3).
#[derive(Debug, Clone)]
pub enum Qkv {
    Separate { q: Linear, k: Linear, v: Linear },
    Fused(Linear),
}

/// Gate and up projections: two matrices, or one fused (Phi-3).
#[derive(Debug, Clone)]
pub enum GateUp {
    Separate { gate: Linear, up: Linear },
    Fused(Linear),
}

/// The weights and constants of one layer.
#[derive(Debug, Clone)]
pub struct Block {
    pub input_norm: FrozenVector,
    pub qkv: Qkv,
    /// Norm of each query and key head, before rope (Qwen 3, Gemma 3).
    pub qk_norm: Option<[FrozenVector; 2]>,
    pub o: Linear,
    /// Norm on the attention's output, before the residual connection (Gemma).
    pub post_attention_norm: Option<FrozenVector>,
    /// Norm on the MLP's input.
    pub mlp_norm: FrozenVector,
    pub gate_up: GateUp,
    pub down: Linear,
    /// Norm on the MLP's output, before the residual connection (Gemma).
    pub post_mlp_norm: Option<FrozenVector>,
    pub geometry: Geometry,
    pub rms_norm_eps: f32,
    pub norm_offset: f32,
    pub activation: Activation,
    /// Which of the pass's rope tables.
    pub rope: usize,
}

impl Block {
    /// The geometry of a layer of `config`.
    pub fn geometry(config: &ModelConfig, layer: &LayerConfig) -> Geometry {
        Geometry {
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            softcap: config.attn_logit_softcapping,
            sliding_window: layer.sliding_window,
        }
    }

    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`. With a cache, keys and values are stored in it, and in the decoding
    /// phase rows attend to it instead of to each other.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn forward(&self, tape: &mut Tape, x: &Var, cache: Option<(&mut KvCache, usize)>) -> Result<Var> {
        let h = self.norm(tape, x, &self.input_norm)?;
        let [q, k, v] = self.qkv(tape, &h)?;
        drop(h);
        let o = match cache {
            None => ops::attention(tape, self.geometry, &q, &k, &v)?,
            Some((cache, layer)) => cache.attention(tape, layer, self.geometry, &q, &k, &v)?,
        };
        drop((q, k, v));
        let mut delta = ops::linear(tape, &o, &self.o)?;
        drop(o);
        if let Some(norm) = &self.post_attention_norm {
            delta = self.norm(tape, &delta, norm)?;
        }
        let x = ops::add(tape, x, delta)?;

        let h = self.norm(tape, &x, &self.mlp_norm)?;
        let [gate, up] = self.gate_up(tape, &h)?;
        drop(h);
        let inner = ops::gate(tape, self.activation, &gate, &up)?;
        drop((gate, up));
        let mut delta = ops::linear(tape, &inner, &self.down)?;
        drop(inner);
        if let Some(norm) = &self.post_mlp_norm {
            delta = self.norm(tape, &delta, norm)?;
        }
        ops::add(tape, &x, delta)
    }

    fn norm(&self, tape: &mut Tape, x: &Var, weight: &FrozenVector) -> Result<Var> {
        ops::rms_norm(tape, x, weight, self.rms_norm_eps, self.norm_offset)
    }

    fn qkv(&self, tape: &mut Tape, h: &Var) -> Result<[Var; 3]> {
        let [mut q, mut k, v] = match &self.qkv {
            Qkv::Separate { q, k, v } => [ops::linear(tape, h, q)?, ops::linear(tape, h, k)?, ops::linear(tape, h, v)?],
            Qkv::Fused(qkv) => {
                let all = ops::linear(tape, h, qkv)?;
                let q_cols = self.geometry.num_attention_heads * self.geometry.head_dim;
                let kv_cols = self.geometry.num_key_value_heads * self.geometry.head_dim;
                [
                    ops::take_columns(tape, &all, 0..q_cols)?,
                    ops::take_columns(tape, &all, q_cols..q_cols + kv_cols)?,
                    ops::take_columns(tape, &all, q_cols + kv_cols..q_cols + 2 * kv_cols)?,
                ]
            }
        };
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            q = self.norm(tape, &q, q_norm)?;
            k = self.norm(tape, &k, k_norm)?;
        }
        let table = tape.pass().ropes[self.rope].clone();
        let head_dim = self.geometry.head_dim;
        Ok([ops::rope(tape, q, head_dim, &table)?, ops::rope(tape, k, head_dim, &table)?, v])
    }

    fn gate_up(&self, tape: &mut Tape, h: &Var) -> Result<[Var; 2]> {
        match &self.gate_up {
            GateUp::Separate { gate, up } => Ok([ops::linear(tape, h, gate)?, ops::linear(tape, h, up)?]),
            GateUp::Fused(both) => {
                let all = ops::linear(tape, h, both)?;
                let half = all.cols() / 2;
                Ok([ops::take_columns(tape, &all, 0..half)?, ops::take_columns(tape, &all, half..2 * half)?])
            }
        }
    }

    /// The linear layers, with the last part of their names in the checkpoint.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = match &self.qkv {
            Qkv::Separate { q, k, v } => vec![q, k, v],
            Qkv::Fused(qkv) => vec![qkv],
        };
        all.push(&self.o);
        match &self.gate_up {
            GateUp::Separate { gate, up } => all.extend([gate, up]),
            GateUp::Fused(both) => all.push(both),
        }
        all.push(&self.down);
        all
    }
}

/// Name and shape of a linear layer, as adapters address it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearInfo {
    pub id: LinearId,
    /// Module path in the Hugging Face model, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub in_features: usize,
    pub out_features: usize,
}
