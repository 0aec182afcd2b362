//! Log-probability of each target token, without holding the logits of all rows.
//!
//! `logp[r] = z[r, target[r]] - log Σ_v exp z[r, v]`, `z = softcap(hidden_states · lm_headᵀ) / temperature`. The kernel walks
//! the vocabulary in blocks and keeps a running maximum and sum per row (online softmax, arXiv 1805.02867, alg. 3). The backward
//! pass computes the blocks again, and their probabilities with the saved log-sum-exp: see docs/derivations/token_logps.md.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::device::Cost;
use crate::error::{check_dtype, check_len, check_shape, check_size};
use crate::{
    Device, FloatSlice, FloatSliceMut, IndexSlice, KernelError, Precision, Result, Slice, SliceMut, WeightSlice,
};

/// Number of matrix products in the forward pass: one, for the logits.
const FORWARD_PRODUCTS: usize = 1;
/// Number of matrix products in the backward pass: one for the logits again, and one of their gradients with `lm_head`.
const BACKWARD_PRODUCTS: usize = 2;

/// Returns the number of multiplications and additions in `products` products of a `[rows, hidden_size]` matrix with `lm_head`.
fn operations(products: usize, rows: usize, [vocab_size, hidden_size]: [usize; 2]) -> f64 {
    2.0 * (products * rows * hidden_size) as f64 * vocab_size as f64
}

/// The operands that the forward pass and the backward pass both read.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Number of positions, scored or ignored.
    pub rows: usize,
    /// Columns of `hidden_states` and `lm_head`.
    pub hidden_size: usize,
    /// Rows of `lm_head`.
    pub vocab_size: usize,
    /// `[rows, hidden_size]`, after the final norm
    pub hidden_states: FloatSlice<'a>,
    /// `[vocab_size, hidden_size]`
    pub lm_head: WeightSlice<'a>,
    /// `[rows]` token ids, or [`crate::IGNORE`]: such a row is not scored, its log-prob is exactly 0 and it has no gradient
    pub targets: IndexSlice<'a>,
    /// `cap` of Gemma 2's soft-cap `z -> cap * tanh(z / cap)`; `None` for no cap
    pub final_logit_softcapping: Option<f32>,
    /// Above 0; divides the logits after the cap
    pub temperature: f32,
    /// The precision of the products with `lm_head`.
    pub precision: Precision,
}

/// Log-probs of the targets.
pub struct Forward<'a> {
    /// The hidden states, `lm_head` and the targets.
    pub head: Head<'a>,
    /// `[rows]`, nats
    pub logps: SliceMut<'a, f32>,
    /// `[rows]`: log-sum-exp of a row's logits, kept for the backward pass
    pub lse: SliceMut<'a, f32>,
    /// The side outputs. `None` if they are not needed.
    pub extras: Option<Extras<'a>>,
}

/// Side outputs of [`Forward`], for metrics and for weighted losses. 0 in ignored rows.
pub struct Extras<'a> {
    /// `[rows]`: entropy of the distribution, nats
    pub entropy: SliceMut<'a, f32>,
    /// `[rows]`: 1.0 if no logit is larger than the target's, else 0.0
    pub target_is_argmax: SliceMut<'a, f32>,
    /// `[rows]`: log-sum-exp of twice the logits; `log Σ p² = lse_of_twice - 2 lse` (WPO, arXiv 2406.11827)
    pub lse_of_twice: SliceMut<'a, f32>,
}

/// Gradients of the hidden states: `d_hidden[r] = d_logps[r] * (lm_head[target[r]] - Σ_v p[r, v] * lm_head[v])`. The soft-cap and
/// the temperature multiply each `lm_head[v]` by the slope of its logit.
pub struct Backward<'a> {
    /// The operands that [`Forward`] read.
    pub head: Head<'a>,
    /// The log-sum-exps that [`Forward`] wrote.
    pub lse: Slice<'a, f32>,
    /// `[rows]`: gradients of the log-probs
    pub d_logps: Slice<'a, f32>,
    /// `[rows, hidden_size]`, in the format of `hidden_states`; overwritten, not added to
    pub d_hidden: FloatSliceMut<'a>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Size`] if `hidden_size` or `vocab_size` is 0; [`crate::KernelError::Shape`] if a slice is not as
    /// long as the sizes imply; [`crate::KernelError::TokenId`] for a target at or above `vocab_size` that is not
    /// [`crate::IGNORE`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "token_logps.forward";
        let rows = self.head.check(KERNEL)?;
        check_len(KERNEL, "logps", self.logps.len(), rows)?;
        check_len(KERNEL, "lse", self.lse.len(), rows)?;
        if let Some(extras) = &self.extras {
            check_len(KERNEL, "extras.entropy", extras.entropy.len(), rows)?;
            check_len(KERNEL, "extras.target_is_argmax", extras.target_is_argmax.len(), rows)?;
            check_len(KERNEL, "extras.lse_of_twice", extras.lse_of_twice.len(), rows)?;
        }
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::forward(device, cpu, self),
            Device::Cuda(cuda) => cuda::forward(device, cuda, self),
            Device::Count(count) => {
                let cost = match count.cpu() {
                    Some(cpu) => cpu::forward_cost(cpu, &self.head, self.extras.is_some()),
                    None => cuda::forward_cost(&self.head),
                };
                count.call(KERNEL, Cost { operations: self.head.operations(FORWARD_PRODUCTS), ..cost })
            }
        }
    }
}

impl Backward<'_> {
    /// # Errors
    /// The errors of [`Forward::run`]; [`crate::KernelError::Format`] if `d_hidden` is not in the format of the hidden states.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "token_logps.backward";
        let rows = self.head.check(KERNEL)?;
        check_len(KERNEL, "lse", self.lse.len(), rows)?;
        check_len(KERNEL, "d_logps", self.d_logps.len(), rows)?;
        check_len(KERNEL, "d_hidden", self.d_hidden.len(), self.head.hidden_states.len())?;
        check_dtype(KERNEL, "d_hidden", self.d_hidden.dtype(), self.head.hidden_states.dtype())?;
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::backward(device, cpu, self),
            Device::Cuda(cuda) => cuda::backward(device, cuda, self),
            Device::Count(count) => {
                let cost = match count.cpu() {
                    Some(cpu) => cpu::backward_cost(cpu, &self.head),
                    None => cuda::backward_cost(&self.head, self.d_hidden.dtype()),
                };
                count.call(KERNEL, Cost { operations: self.head.operations(BACKWARD_PRODUCTS), ..cost })
            }
        }
    }
}

impl Head<'_> {
    /// Refuses sizes of 0, operands that are not as long as the sizes imply, and targets outside the vocabulary. Returns the
    /// number of rows.
    fn check(&self, kernel: &'static str) -> Result<usize> {
        let &Head { rows, hidden_size, vocab_size, hidden_states, lm_head, targets, .. } = self;
        check_size(kernel, "hidden_size", hidden_size, hidden_size > 0, "at least 1")?;
        check_size(kernel, "vocab_size", vocab_size, vocab_size > 0, "at least 1")?;
        check_shape(kernel, "hidden_states", hidden_states.len(), [rows, hidden_size])?;
        check_shape(kernel, "lm_head", lm_head.len(), [vocab_size, hidden_size])?;
        check_len(kernel, "targets", targets.len(), rows)?;
        match targets.first_scored_outside(0..vocab_size)? {
            Some((row, id)) => Err(KernelError::TokenId { kernel, row, id, vocab_size }),
            None => Ok(rows),
        }
    }

    /// Returns the number of multiplications and additions in `products` matrix products.
    fn operations(&self, products: usize) -> f64 {
        operations(products, self.rows, [self.vocab_size, self.hidden_size])
    }
}
