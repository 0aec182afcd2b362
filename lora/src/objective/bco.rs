//! Binary classifier optimisation on labelled single answers.

use super::history::History;
use super::knobs::{self, Knob, KnobKind};
use super::loss::{Answer, BatchLogRatios, Coupling, Label, Loss, Statistics, UnpairedLoss};
use super::spec::LossSpec;
use align_engine::autograd::scalar::Scalar;

pub(super) const SPEC: LossSpec = LossSpec {
    name: "bco",
    source: "arXiv 2404.04656",
    summary: "A classifier of good and bad answers whose logit is the reward less its running mean",
    formula: "softplus(-(r - d)) or softplus(r - d), r = beta * log_ratio, d the running mean of r",
    when: "Thumbs up and down, if you want an unbounded loss.",
    knobs: &[
        knobs::BETA,
        Knob { kind: KnobKind::Choice { default: "running", choices: &["zero", "running"] }, ..super::bco_pair::DELTA },
    ],
    build: |knobs| {
        let shift = if knobs.choice("bco_delta") == "running" { Shift::RunningMean } else { Shift::Zero };
        Loss::Unpaired(Box::new(Bco { beta: knobs.number("beta"), shift }))
    },
    ..LossSpec::UNPAIRED
};

/// `loss = softplus(-u)` of a desirable answer, and `softplus(u)` of an undesirable one, `u = beta * log_ratio - d`. `d` is 0, or
/// the mean of `beta * log_ratio` over every answer so far, this batch included. `d` has no gradient.
///
/// Source: arXiv 2404.04656. The paper's weighting of rejected prompts by a density ratio is left out.
struct Bco {
    beta: f64,
    shift: Shift,
}

#[derive(PartialEq)]
enum Shift {
    Zero,
    RunningMean,
}

impl UnpairedLoss for Bco {
    fn coupling(&self) -> Coupling {
        if self.shift == Shift::Zero { Coupling::None } else { Coupling::WholeBatch }
    }

    fn statistics(&self, batch: &BatchLogRatios<'_>, history: &History) -> Statistics {
        let history = history.with_rewards(batch.own.iter().map(|log_ratio| self.beta * log_ratio));
        Statistics::new([("delta", history.rewards.mean())]).remembering(history)
    }

    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, statistics: &Statistics) -> Scalar<'t> {
        let delta = if self.shift == Shift::Zero { 0.0 } else { statistics.get("delta") };
        let u = self.beta * answer.log_ratio() - delta;
        match label {
            Label::Desirable => (-u).softplus(),
            Label::Undesirable => u.softplus(),
        }
    }
}
