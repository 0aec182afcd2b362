//! The f-divergence that holds the policy to the reference: it replaces the log-ratios in a loss of their margin.

use super::knobs::Knobs;
use align_engine::autograd::scalar::Scalar;

/// How a log-ratio `r` is scored. Source: arXiv 2309.16240. For the alpha divergence, TRL up to 0.28 has `(1 - e^(-c r)) / c`,
/// and from 0.29 on the form here. With `c = 1 - q` the two differ only by a constant, which cancels in a margin. TRL clamps the
/// exponent of the alpha divergence but not that of the forward KL, which then overflows at a log-ratio of -89 in f32. Here both
/// exponents are clamped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Divergence {
    /// `r`: the KL divergence of the policy from the reference, as in DPO.
    ReverseKl,
    /// `-e^-r`, with the exponent limited to `exp_clamp`.
    ForwardKl { exp_clamp: f64 },
    /// `ln sigmoid(r)`
    JensenShannon,
    /// `e^((q - 1) r) / (q - 1)`, with the exponent limited to `exp_clamp`. As `q` goes to 1, this becomes the reverse KL, except
    /// for a constant.
    Alpha { q: f64, exp_clamp: f64 },
}

impl Divergence {
    /// Returns the score that replaces a log-ratio.
    pub(crate) fn score<'t>(self, log_ratio: Scalar<'t>) -> Scalar<'t> {
        match self {
            Divergence::ReverseKl => log_ratio,
            Divergence::ForwardKl { exp_clamp } => -clamped_exp(-log_ratio, exp_clamp),
            Divergence::JensenShannon => log_ratio.log_sigmoid(),
            Divergence::Alpha { q, exp_clamp } => clamped_exp((q - 1.0) * log_ratio, exp_clamp) / (q - 1.0),
        }
    }

    /// Reads `--f-divergence` and its numbers.
    pub(super) fn of(knobs: &Knobs) -> Self {
        let exp_clamp = || knobs.number("exp_clamp");
        match knobs.choice("f_divergence") {
            "reverse_kl" => Divergence::ReverseKl,
            "forward_kl" => Divergence::ForwardKl { exp_clamp: exp_clamp() },
            "js_divergence" => Divergence::JensenShannon,
            "alpha_divergence" => Divergence::Alpha { q: knobs.number("f_alpha"), exp_clamp: exp_clamp() },
            other => unreachable!("the knob accepts no `{other}`"),
        }
    }
}

/// Computes `e^min(x, limit)`, without a gradient beyond the limit.
fn clamped_exp<'t>(x: Scalar<'t>, limit: f64) -> Scalar<'t> {
    x.clamp_max(limit).exp()
}
