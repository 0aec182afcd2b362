//! Log-probabilities of the scored tokens.

use crate::autograd::{Backward, Grads, Input, Saved, SavedF32, Tape, Var};
use crate::weights::Frozen;
use align_kernels::token_logps::{self, Extras, Head};
use align_kernels::{FloatBuffer, Indices, Precision, Result};
use std::rc::Rc;

/// Which rows are scored, and which token each one predicts.
#[derive(Debug, Clone)]
pub struct ScoredTokens {
    /// `[n]` rows of the forward pass
    pub rows: Rc<Indices>,
    /// `[n]` the token that follows each of those rows
    pub targets: Rc<Indices>,
    /// The first `policy` of these rows have a gradient.
    pub policy: usize,
}

/// Log-probs of scored tokens, and extras on request.
pub struct TokenLogps {
    /// `[n, 1]`, nats
    pub logps: Var,
    /// `None` unless they were requested.
    pub extras: Option<TokenExtras>,
}

/// More about the distribution at each scored token. These values have no gradient and are on the host.
pub struct TokenExtras {
    /// `[n]`, nats
    pub entropy: Vec<f32>,
    /// `[n]`: 1.0 if the target is the argmax
    pub target_is_argmax: Vec<f32>,
    /// `[n]`: `ln Σ p²` over the vocabulary
    pub log_sum_squares: Vec<f64>,
}

/// Computes `log softmax(softcap(hidden_states · lm_headᵀ) / temperature)` at the targets. Keeps `hidden_states` and saves the
/// log-sum-exp of each row (4 bytes). Logits are never stored.
///
/// # Errors
/// [`align_kernels::KernelError::TokenId`] for a target outside the vocabulary.
pub fn token_logps(
    tape: &mut Tape,
    hidden_states: &Var,
    lm_head: &Frozen,
    scored: &ScoredTokens,
    final_logit_softcapping: Option<f32>,
    temperature: f32,
    with_extras: bool,
) -> Result<TokenLogps> {
    let [vocab_size, hidden_size] = lm_head.shape();
    let rows = hidden_states.rows();
    let mut logps = tape.alloc("token_logps.logps", rows)?;
    let mut lse = tape.alloc("token_logps.lse", rows)?;
    let mut extras = match with_extras {
        true => Some([
            tape.alloc("token_logps.entropy", rows)?,
            tape.alloc("token_logps.argmax", rows)?,
            tape.alloc("token_logps.lse_of_twice", rows)?,
        ]),
        false => None,
    };
    token_logps::Forward {
        head: Head {
            rows,
            hidden_size,
            vocab_size,
            hidden_states: hidden_states.view(),
            lm_head: lm_head.view(),
            targets: scored.targets.view(),
            final_logit_softcapping,
            temperature,
            precision: tape.precision(),
        },
        logps: logps.view_mut(),
        lse: lse.view_mut(),
        extras: extras.as_mut().map(|[entropy, argmax, twice]| Extras {
            entropy: entropy.view_mut(),
            target_is_argmax: argmax.view_mut(),
            lse_of_twice: twice.view_mut(),
        }),
    }
    .run(tape.device())?;
    let extras = match extras {
        Some([entropy, target_is_argmax, twice]) => Some(TokenExtras {
            entropy: entropy.download()?,
            target_is_argmax: target_is_argmax.download()?,
            log_sum_squares: (twice.download()?.iter().zip(lse.download()?))
                .map(|(&twice, lse)| f64::from(twice) - 2.0 * f64::from(lse))
                .collect(),
        }),
        None => None,
    };
    let grad_rows = hidden_states.grad_rows();
    let logps = tape.push([rows, 1], grad_rows, logps, |tape| {
        Ok(Node {
            rows: grad_rows,
            input: hidden_states.input(),
            hidden_states: tape.keep(hidden_states)?,
            lm_head: lm_head.clone(),
            targets: scored.targets.clone(),
            final_logit_softcapping,
            temperature,
            precision: tape.precision(),
            lse: tape.save(lse, grad_rows)?,
        })
    })?;
    Ok(TokenLogps { logps, extras })
}

struct Node {
    rows: usize,
    input: Input,
    hidden_states: Saved,
    lm_head: Frozen,
    targets: Rc<Indices>,
    final_logit_softcapping: Option<f32>,
    temperature: f32,
    precision: Precision,
    lse: SavedF32,
}

impl Backward for Node {
    // d_hidden += d_logp * (lm_head[target] - Σ_v p_v lm_head[v]), through the soft-cap
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device();
        let [vocab_size, hidden_size] = self.lm_head.shape();
        let mut d_hidden = device.alloc_float("token_logps.d_hidden", self.input.dtype, self.input.len())?;
        token_logps::Backward {
            head: Head {
                rows: self.rows,
                hidden_size,
                vocab_size,
                hidden_states: self.hidden_states.view(),
                lm_head: self.lm_head.view(),
                targets: self.targets.view().range(0..self.rows),
                final_logit_softcapping: self.final_logit_softcapping,
                temperature: self.temperature,
                precision: self.precision,
            },
            lse: self.lse.view(),
            d_logps: dy.view().expect_f32(),
            d_hidden: d_hidden.view_mut(),
        }
        .run(device)?;
        grads.give(self.input, d_hidden)
    }
}
