//! Log-probabilities of target tokens, computed as they are defined: all logits of one row at a time.
//!
//! ```text
//! forward   u[v] = hidden·lm_head[v]       z[v] = u[v] / temperature, or cap * tanh(u[v] / cap) / temperature
//!           lse = log Σ_v exp z[v]         logp = z[target] - lse        p[v] = exp(z[v] - lse)
//!           entropy = lse - Σ_v p[v] z[v]  lse_of_twice = log Σ_v exp 2 z[v]
//! backward  dz[v] = d_logp ([v = target] - p[v])
//!           du[v] = dz[v] / temperature (1 - (z[v] temperature / cap)²) with the soft-cap, else dz[v] / temperature
//!           d_hidden = Σ_v du[v] lm_head[v]
//! ```

use crate::IGNORE;
use crate::real::Real;

/// Turns products into logits, with the soft-cap and the temperature of [`super::Head`].
#[derive(Clone, Copy)]
pub(crate) struct Logit {
    pub cap: Option<f32>,
    pub temperature: f32,
}

/// The outputs of [`forward`], each `[rows]`; 0 in ignored rows.
pub(crate) struct Outputs<R> {
    pub logps: Vec<R>,
    pub lse: Vec<R>,
    pub entropy: Vec<R>,
    pub target_is_argmax: Vec<R>,
    pub lse_of_twice: Vec<R>,
}

/// Scores the targets. `hidden_states` is `[targets.len(), hidden_size]`, and `lm_head` is `[vocab_size, hidden_size]`.
pub(crate) fn forward<R: Real>(
    hidden_size: usize,
    hidden_states: &[R],
    lm_head: &[R],
    targets: &[u32],
    logit: Logit,
) -> Outputs<R> {
    let zeros = vec![R::ZERO; targets.len()];
    let mut out = Outputs {
        logps: zeros.clone(),
        lse: zeros.clone(),
        entropy: zeros.clone(),
        target_is_argmax: zeros.clone(),
        lse_of_twice: zeros,
    };
    for (r, &target) in targets.iter().enumerate() {
        if target == IGNORE {
            continue;
        }
        let z = logits(&hidden_states[r * hidden_size..][..hidden_size], lm_head, logit);
        let max = z.iter().fold(R::NEG_INFINITY, |max, &x| max.larger(x));
        let (mut sum, mut weighted, mut sum_of_squares) = (R::ZERO, R::ZERO, R::ZERO);
        for &x in &z {
            let e = (x - max).exp();
            sum += e;
            weighted += e * (x - max);
            sum_of_squares += e * e;
        }
        let of_target = z[target as usize];
        out.lse[r] = max + sum.ln();
        out.logps[r] = (of_target - max) - sum.ln();
        out.entropy[r] = sum.ln() - weighted / sum;
        out.target_is_argmax[r] = if of_target < max { R::ZERO } else { R::ONE };
        out.lse_of_twice[r] = max + max + sum_of_squares.ln();
    }
    out
}

/// Returns `d_hidden`, `[rows, hidden_size]`. `lse` is that of [`forward`].
pub(crate) fn backward<R: Real>(
    hidden_size: usize,
    hidden_states: &[R],
    lm_head: &[R],
    targets: &[u32],
    logit: Logit,
    lse: &[R],
    d_logps: &[R],
) -> Vec<R> {
    let mut d_hidden = vec![R::ZERO; hidden_states.len()];
    for (r, &target) in targets.iter().enumerate() {
        if target == IGNORE {
            continue;
        }
        let z = logits(&hidden_states[r * hidden_size..][..hidden_size], lm_head, logit);
        let d_row = &mut d_hidden[r * hidden_size..][..hidden_size];
        for (v, &z) in z.iter().enumerate() {
            let one_hot = if v == target as usize { R::ONE } else { R::ZERO };
            let temperature = R::from_f32(logit.temperature);
            let slope = logit.cap.map_or(R::ONE, |cap| {
                let t = z * temperature / R::from_f32(cap);
                R::ONE - t * t
            });
            let du = d_logps[r] * (one_hot - (z - lse[r]).exp()) * slope / temperature;
            for (d, &w) in d_row.iter_mut().zip(&lm_head[v * hidden_size..][..hidden_size]) {
                *d += du * w;
            }
        }
    }
    d_hidden
}

/// Returns the logits `z` of one row, for all tokens.
fn logits<R: Real>(hidden: &[R], lm_head: &[R], logit: Logit) -> Vec<R> {
    lm_head
        .chunks_exact(hidden.len())
        .map(|token| {
            let mut u = R::ZERO;
            for (&x, &w) in hidden.iter().zip(token) {
                u += x * w;
            }
            let capped = logit.cap.map_or(u, |cap| R::from_f32(cap) * (u / R::from_f32(cap)).tanh());
            capped / R::from_f32(logit.temperature)
        })
        .collect()
}
