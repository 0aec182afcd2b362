//! Losses of all scored answers to a prompt: they compare the policy's distribution over the answers with that of the rewards.

use super::knobs::{self, Knob, KnobValue, Knobs, Range};
use super::loss::{Answer, KWayLoss, Loss};
use super::spec::{LossSpec, Preset};
use align_engine::autograd::scalar::Scalar;

/// The temperature of the rewards.
const fn beta_r(default: f64) -> Knob {
    Knob::number(
        "beta_r",
        "beta-r",
        "Temperature of the rewards: the target is softmax(reward / beta-r)",
        default,
        Range::POSITIVE,
    )
}

pub(super) const EXO_RW: LossSpec = LossSpec {
    name: "exo_rw",
    source: "arXiv 2402.00856",
    summary: "Exact optimisation with rewards: reverse KL from the target to the policy over the answers to a prompt",
    formula: "sum q (ln q - ln t), q = softmax(beta * log_ratio), t = softmax(reward / beta_r), over the answers",
    when: "Several scored answers a prompt, and the policy should take the best mode.",
    knobs: &[knobs::beta(0.5), beta_r(0.5)],
    build: |knobs| Loss::KWay(Box::new(ExoRw(Scales::of(knobs)))),
    ..LossSpec::KWAY
};

pub(super) const DPO_RW: LossSpec = LossSpec {
    name: "dpo_rw",
    presets: &[Preset {
        name: "infonca",
        defaults: &[("beta", KnobValue::Number(0.01)), ("beta_r", KnobValue::Number(1e-4))],
        source: Some("arXiv 2402.05369"),
        ..Preset::PLAIN
    }],
    source: "arXiv 2402.00856 and 2402.05369",
    summary: "DPO with rewards: cross-entropy of the policy's distribution over the answers to a prompt",
    formula: "-sum t ln q, q = softmax(beta * log_ratio), t = softmax(reward / beta_r), over the answers",
    when: "Several scored answers a prompt; with two answers and a sharp target it is DPO.",
    knobs: &[knobs::beta(0.5), beta_r(0.5)],
    build: |knobs| Loss::KWay(Box::new(DpoRw(Scales::of(knobs)))),
    ..LossSpec::KWAY
};

pub(super) const NCA: LossSpec = LossSpec {
    name: "nca",
    source: "arXiv 2402.05369",
    summary: "Noise contrastive alignment: a classifier for each answer, so that good answers become likelier in themselves",
    formula: "sum softplus(s) / K + t softplus(-s), s = beta * log_ratio, t = softmax(reward / beta_r), over the K answers",
    when: "Several scored answers a prompt, and the best ones must not become less likely.",
    knobs: &[knobs::beta(0.01), beta_r(1e-4)],
    build: |knobs| Loss::KWay(Box::new(Nca(Scales::of(knobs)))),
    ..LossSpec::KWAY
};

struct Scales {
    beta: f64,
    beta_r: f64,
}

impl Scales {
    fn of(knobs: &Knobs) -> Self {
        Scales { beta: knobs.number("beta"), beta_r: knobs.number("beta_r") }
    }

    /// `beta * log_ratio` of each answer.
    fn rewards_of_policy<'t>(&self, answers: &[Answer<'t>]) -> Vec<Scalar<'t>> {
        answers.iter().map(|answer| self.beta * answer.log_ratio()).collect()
    }

    /// `ln softmax(reward / beta_r)` of each answer. It is a logarithm because the target itself may underflow.
    fn log_target(&self, rewards: &[f64]) -> Vec<f64> {
        let scaled: Vec<f64> = rewards.iter().map(|reward| reward / self.beta_r).collect();
        let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + scaled.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        scaled.iter().map(|x| x - lse).collect()
    }
}

/// `ln softmax(s)`
fn log_softmax<'t>(s: &[Scalar<'t>]) -> Vec<Scalar<'t>> {
    let lse = Scalar::log_sum_exp(s);
    s.iter().map(|&s| s - lse).collect()
}

/// `loss = Σ q (ln q - ln t)`, the reverse KL, `q = softmax(beta * log_ratio)`, `t = softmax(reward / beta_r)`. Its gradient
/// vanishes once `q` is one-hot. The loss of a single answer is 0.
///
/// Source: arXiv 2402.00856 (`beta` is its beta_pi).
struct ExoRw(Scales);

impl KWayLoss for ExoRw {
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t> {
        let log_target = self.0.log_target(rewards);
        let log_q = log_softmax(&self.0.rewards_of_policy(answers));
        let terms: Vec<_> = log_q.iter().zip(log_target).map(|(&log_q, log_t)| log_q.exp() * (log_q - log_t)).collect();
        Scalar::sum(&terms)
    }
}

/// `loss = -Σ t ln q`: the forward KL, up to the entropy of `t`; `q = softmax(beta * log_ratio)`, `t = softmax(reward / beta_r)`.
///
/// Source: arXiv 2402.00856; InfoNCA of arXiv 2402.05369 is the same loss.
struct DpoRw(Scales);

impl KWayLoss for DpoRw {
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t> {
        let log_target = self.0.log_target(rewards);
        let log_q = log_softmax(&self.0.rewards_of_policy(answers));
        let terms: Vec<_> = log_q.iter().zip(log_target).map(|(&log_q, log_t)| -log_t.exp() * log_q).collect();
        Scalar::sum(&terms)
    }
}

/// `loss = Σ softplus(s) / K + Σ t softplus(-s)` over `K` answers, `s = beta * log_ratio`, `t = softmax(reward / beta_r)`.
///
/// Source: arXiv 2402.05369. With the paper's `beta_r` of 1e-4, the target is nearly one-hot once the rewards differ by 0.001.
struct Nca(Scales);

impl KWayLoss for Nca {
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t> {
        let log_target = self.0.log_target(rewards);
        let k = answers.len() as f64;
        let s = self.0.rewards_of_policy(answers);
        let terms: Vec<_> =
            s.iter().zip(log_target).map(|(&s, log_t)| s.softplus() / k + log_t.exp() * (-s).softplus()).collect();
        Scalar::sum(&terms)
    }
}
