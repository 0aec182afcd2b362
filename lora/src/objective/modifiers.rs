//! Changes that apply to many losses: added terms, weights of pairs, other ways of counting tokens and log-ratios.

use super::knobs::{Knob, KnobValue, Needs, Range, SFT_REDUCTION};

/// A change that applies to every loss of some kind, with its own knobs.
pub struct Modifier {
    /// Its name.
    pub title: &'static str,
    /// How it changes the loss, in the words of `docs/objectives.md`.
    pub formula: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Its knobs. With their defaults it changes nothing.
    pub knobs: &'static [Knob],
}

/// Adds the negative log-likelihood of the chosen answers to the loss.
pub(super) const LIKELIHOOD: Modifier = Modifier {
    title: "Likelihood term",
    formula: "loss + sft_weight * R, R of -ln policy(chosen): token_mean by the tokens of the batch, seq_mean the mean of each answer's \
              mean, seq_sum the mean of the answers' sums",
    source: "arXiv 2405.16436",
    knobs: &[SFT_WEIGHT, SFT_TERM_REDUCTION],
};

/// Weighs pairs by the policy's own probabilities.
pub(super) const WEIGHTING: Modifier = Modifier {
    title: "Weights by the policy",
    formula: "min(1, e^(m_chosen + m_rejected)) * loss of the pair, m the mean over an answer's tokens of ln p(token) - ln sum p^2, \
              without gradient",
    source: "arXiv 2406.11827, eq. 2",
    knobs: &[USE_WEIGHTING],
};

/// Counts the end of the longer answer less.
pub(super) const LENGTH_DESENSITISATION: Modifier = Modifier {
    title: "Tokens beyond the shorter answer's length",
    formula: "policy and reference are sum(first n tokens) + ld_alpha * sum(the others), n the tokens of the shorter answer",
    source: "arXiv 2409.06411, eq. 11 and 12",
    knobs: &[LD_ALPHA, LD_REF],
};

/// Measures the divergence from the reference with an f-divergence other than the reverse KL.
pub(super) const DIVERGENCE: Modifier = Modifier {
    title: "Other divergences",
    formula: "log_ratio_margin = s(a) - s(b), a and b the log-ratios: s(r) = r (reverse_kl), -e^-r (forward_kl), ln sigmoid(r) \
              (js_divergence), e^((f_alpha - 1) r) / (f_alpha - 1) (alpha_divergence); exponents at most exp_clamp",
    source: "arXiv 2309.16240",
    knobs: &[F_DIVERGENCE, F_ALPHA, EXP_CLAMP],
};

/// Every modifier.
pub const MODIFIERS: &[&Modifier] = &[&LIKELIHOOD, &WEIGHTING, &LENGTH_DESENSITISATION, &DIVERGENCE];

/// For any loss of single pairs with a reference.
pub(super) const OF_PAIRS: &[&Modifier] = &[&LIKELIHOOD, &WEIGHTING, &LENGTH_DESENSITISATION];

/// For any loss that reads only the log-ratio margin of a pair.
pub(super) const OF_MARGINS: &[&Modifier] = MODIFIERS;

/// For any loss of a batch of pairs. Such a loss does not weigh its pairs one by one.
pub(super) const OF_PAIR_BATCHES: &[&Modifier] = &[&LIKELIHOOD];

/// For any loss of single pairs without a reference.
pub(super) const OF_PAIRS_ALONE: &[&Modifier] = &[&LIKELIHOOD, &WEIGHTING];

/// [`SFT_REDUCTION`] for the term of `--sft-weight`.
const SFT_TERM_REDUCTION: Knob = Knob {
    needs: Some(Needs {
        key: "sft_weight",
        holds: |weight| matches!(weight, KnobValue::Number(weight) if weight > 0.0),
        what: "above 0",
    }),
    ..SFT_REDUCTION
};

const SFT_WEIGHT: Knob = Knob::number(
    "sft_weight",
    "sft-weight",
    "Weight of an added term, the negative log-likelihood of the chosen answers",
    0.0,
    Range::NOT_NEGATIVE,
);

const USE_WEIGHTING: Knob = Knob::switch(
    "use_weighting",
    "use-weighting",
    "Weigh each pair by how likely the policy finds its answers, at most 1 (WPO, arXiv 2406.11827)",
    false,
);

const LD_ALPHA: Knob = Knob::number(
    "ld_alpha",
    "ld-alpha",
    "Weight of the tokens beyond the shorter answer's length (LD-DPO, arXiv 2409.06411)",
    1.0,
    Range::closed(0.0, 1.0),
);

const LD_REF: Knob = Knob {
    needs: Some(Needs {
        key: "ld_alpha",
        holds: |alpha| matches!(alpha, KnobValue::Number(alpha) if alpha != 1.0),
        what: "below 1",
    }),
    ..Knob::switch(
        "ld_ref",
        "no-ld-ref",
        "With --ld-alpha: the reference's log-probs count whole, as in LLaMA-Factory and TRL up to 0.28",
        true,
    )
};

const F_DIVERGENCE: Knob = Knob {
    flag_aliases: &["f-divergence-type"],
    ..Knob::choice(
        "f_divergence",
        "f-divergence",
        "What holds the policy to the reference: reverse_kl (DPO's), forward_kl, js_divergence or alpha_divergence",
        "reverse_kl",
        &["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
    )
};

const F_ALPHA: Knob = Knob {
    needs: Some(Needs {
        key: "f_divergence",
        holds: |divergence| divergence == KnobValue::Choice("alpha_divergence"),
        what: "alpha_divergence",
    }),
    ..Knob::number(
        "f_alpha",
        "f-alpha",
        "The alpha divergence's q: towards 1 it is the reverse KL",
        0.5,
        Range::open(0.0, 1.0),
    )
};

const EXP_CLAMP: Knob = Knob {
    needs: Some(Needs {
        key: "f_divergence",
        holds: |divergence| matches!(divergence, KnobValue::Choice("forward_kl" | "alpha_divergence")),
        what: "forward_kl or alpha_divergence",
    }),
    ..Knob::number(
        "exp_clamp",
        "exp-clamp",
        "Largest exponent of the forward KL and the alpha divergence; no gradient beyond",
        80.0,
        Range::open(0.0, 700.0),
    )
};
