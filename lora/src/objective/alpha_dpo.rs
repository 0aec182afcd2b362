//! Alpha-DPO: a target margin that follows how the policy already differs from the reference.

use super::history::History;
use super::knobs::{self, Knob, Range};
use super::loss::{Loss, Pair, PairBatchLoss, Statistics};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "alpha_dpo",
    aliases: &["alphadpo"],
    source: "arXiv 2410.10148, eq. 12",
    summary: "SimPO with a target margin for each pair, larger where the policy already prefers the chosen answer more than usual",
    formula: "-ln sigmoid(beta * (h - gamma_beta_ratio - alpha * z)), h the margin of the policy's log-probs per token, z the standardised margin of the \
              log-ratios per token",
    when: "SimPO's one margin for all pairs is too coarse. The loss may rise while it learns: its target follows the policy.",
    knobs: &[
        knobs::beta_of_policy(10.0),
        Knob::number("gamma_beta_ratio", "gamma-beta-ratio", "Target margin / beta", 0.4, Range::NOT_NEGATIVE),
        Knob::number("alpha", "alpha", "How far the target follows the policy's own margin", 0.05, Range::NOT_NEGATIVE),
        Knob::choice(
            "alpha_dpo_stats",
            "alpha-dpo-stats",
            "Running mean and deviation of the margins: corrected for their start at 0, or not, as in the authors' code",
            "corrected",
            &["corrected", "authors"],
        ),
    ],
    build: |knobs| {
        let [beta, gamma_beta_ratio, alpha] = knobs.numbers(["beta", "gamma_beta_ratio", "alpha"]);
        let corrected = knobs.choice("alpha_dpo_stats") == "corrected";
        Loss::PairBatch(Box::new(AlphaDpo { beta, gamma_beta_ratio, alpha, corrected }))
    },
    ..LossSpec::PAIR_BATCHES
};

/// `loss = -ln sigmoid(beta * (h - (gamma_beta_ratio + alpha z)))`, `h` the margin of the policy's log-probs per token.
/// `z = (gap - mean) / std` has no gradient; `gap` is the margin of the log-ratios per token, and mean and std are moving averages
/// over the batches.
///
/// Source: arXiv 2410.10148, eq. 12, scaled as in the authors' code, which multiplies the target margin by `beta`. The paper
/// subtracts `gamma + alpha M` after the multiplication. In the authors' code, the averages start at 0 without correction (`z` is
/// ten times too large at the first step), evaluations change them too, and a batch of one pair makes them NaN. Here they are
/// corrected by default, evaluations do not change them once training has set them, and a batch of one pair leaves them unchanged
/// (`z` is 0 until a standard deviation is known).
struct AlphaDpo {
    beta: f64,
    gamma_beta_ratio: f64,
    alpha: f64,
    corrected: bool,
}

impl PairBatchLoss for AlphaDpo {
    fn statistics(&self, pairs: &[Pair<'_>], history: &History) -> Statistics {
        let gaps: Vec<f64> = pairs.iter().map(|pair| pair.mean_log_ratio_margin().value()).collect();
        let history = history.with_gaps(&gaps);
        let (mean, std) = if self.corrected { history.gaps.corrected() } else { (history.gaps.mean, history.gaps.std) };
        Statistics::new([("gap_mean", mean), ("gap_std", std)]).remembering(history)
    }

    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>> {
        let (mean, std) = (statistics.get("gap_mean"), statistics.get("gap_std"));
        let loss = |pair: &Pair<'t>| {
            let gap = pair.mean_log_ratio_margin().value();
            let z = if std > 0.0 { (gap - mean) / std } else { 0.0 };
            (-(self.beta * (pair.mean_logp_margin() - (self.gamma_beta_ratio + self.alpha * z)))).softplus()
        };
        pairs.iter().map(loss).collect()
    }
}
