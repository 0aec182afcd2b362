//! Log-probability of each target token, without holding the logits of all rows.
//!
//! `logp[r] = z[r, target[r]] - log Σ_v exp z[r, v]`, `z = softcap(hidden_states · lm_headᵀ)`. Walks the vocabulary in tiles and
//! keeps a running maximum and sum per row (online softmax, arXiv 1805.02867, alg. 3). The backward pass recomputes the tiles
//! from the saved log-sum-exp.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Precision, Result, Slice, SliceMut, WeightSlice};

/// A target that is not scored: its log-prob is exactly 0 and it has no gradient.
pub const IGNORE: u32 = u32::MAX;

/// Log-probs of the targets.
pub struct Forward<'a> {
    pub rows: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// `[rows, hidden_size]`, after the final norm
    pub hidden_states: Slice<'a, f32>,
    /// `[vocab_size, hidden_size]`
    pub lm_head: WeightSlice<'a>,
    /// `[rows]` token ids, or [`IGNORE`]
    pub targets: Slice<'a, u32>,
    /// `z -> cap * tanh(z / cap)` (Gemma 2)
    pub final_logit_softcapping: Option<f32>,
    pub precision: Precision,
    /// `[rows]`, nats
    pub logps: SliceMut<'a, f32>,
    /// `[rows]`: log-sum-exp of a row's logits, kept for the backward pass
    pub lse: SliceMut<'a, f32>,
    /// Further numbers of each row, on request.
    pub extras: Option<Extras<'a>>,
}

/// Side outputs of [`Forward`], for metrics and for weighted losses. 0 in ignored rows.
pub struct Extras<'a> {
    /// `[rows]`: entropy of the distribution, nats
    pub entropy: SliceMut<'a, f32>,
    /// `[rows]`: 1.0 where no logit is larger than the target's
    pub target_is_argmax: SliceMut<'a, f32>,
    /// `[rows]`: log-sum-exp of twice the logits; `log Σ p² = lse_of_twice - 2 lse` (WPO, arXiv 2406.11827)
    pub lse_of_twice: SliceMut<'a, f32>,
}

/// `d_hidden[r] += d_logps[r] * (lm_head[target[r]] - Σ_v p[r, v] * lm_head[v])`, through the soft-cap
pub struct Backward<'a> {
    pub rows: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// As in [`Forward`].
    pub hidden_states: Slice<'a, f32>,
    pub lm_head: WeightSlice<'a>,
    pub targets: Slice<'a, u32>,
    pub final_logit_softcapping: Option<f32>,
    pub precision: Precision,
    pub lse: Slice<'a, f32>,
    /// `[rows]`
    pub d_logps: Slice<'a, f32>,
    /// `[rows, hidden_size]`; set, not added to
    pub d_hidden: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::TokenId`] for a
    /// target at or above `vocab_size` that is not [`IGNORE`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
