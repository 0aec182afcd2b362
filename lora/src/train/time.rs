//! What a step will take: its operations, and how fast this machine does them.

use super::forest::{Forest, Scorers};
use align_engine::model::Model;

/// Operations of a forward and a backward pass over the rows of a forest, a multiply-add counted as two. With `P` weights in
/// the linear layers, `n` policy and `m` reference rows, adapters of `a = Σ rank (in + out)` numbers and `s` pairs of a query
/// and a key that it sees (`s_n` of them among policy rows):
///
/// | part | forward | backward |
/// |---|---|---|
/// | base | `2 P (n + m)` | `2 P n`: the gradient of the input alone |
/// | adapters | `2 a n` | `4 a n` |
/// | attention | `4 heads head_dim s` a layer | `10 heads head_dim s_n`: scores once more, then four products |
/// | head, a scored row | `2 hidden_size vocab_size` | `4 hidden_size vocab_size`: logits once more, then their product |
/// | a reward model's head | `2 hidden_size` | `4 hidden_size` |
///
/// Norms, gates, rotations and the optimiser are not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Of the layers.
    pub forward: f64,
    pub backward: f64,
    /// The layers' forward pass once more, on the rows with a gradient alone: what recomputing all of them takes.
    pub again: f64,
    pub head_forward: f64,
    pub head_backward: f64,
}

impl Work {
    /// With adapters of `adapter` numbers.
    pub fn of(model: &Model, adapter: u64, forest: &Forest) -> Work {
        let config = model.config();
        let linears = model.linears();
        let base: f64 = linears.iter().map(|linear| linear.in_features as f64 * linear.out_features as f64).sum();
        let plan = &forest.plan;
        let (adapter, n, policy) = (adapter as f64, plan.policy as f64, (plan.policy + plan.detached) as f64);
        let segments = plan.segments();
        let seen = |end: usize| -> f64 {
            let pairs = |rows: f64, prefix: f64| rows * prefix + rows * (rows + 1.0) / 2.0;
            let among = segments.iter().filter(|segment| segment.rows.start < end);
            among.map(|segment| pairs(segment.rows.len() as f64, segment.prefix.len() as f64)).sum()
        };
        let per_pair = (config.num_attention_heads * config.head_dim * config.num_hidden_layers) as f64;
        let outputs = match forest.scorers {
            Scorers::Policy | Scorers::PolicyAndReference => config.vocab_size,
            Scorers::Reward { .. } => 1,
        };
        let head = config.hidden_size as f64 * outputs as f64;
        Work {
            forward: 2.0 * base * plan.rows() as f64 + 2.0 * adapter * policy + 4.0 * per_pair * seen(plan.rows()),
            backward: 2.0 * base * n + 4.0 * adapter * n + 10.0 * per_pair * seen(plan.policy),
            again: 2.0 * base * n + 2.0 * adapter * n + 4.0 * per_pair * seen(plan.policy),
            head_forward: 2.0 * head * forest.scored_rows.len() as f64,
            head_backward: 4.0 * head * forest.scored_with_gradient as f64,
        }
    }
}

/// Seconds that one layer took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probe {
    pub forward: f64,
    /// With its forward pass once more, on the rows with a gradient alone.
    pub backward: f64,
}

/// How long a step will take, if the machine stays as busy as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Operations of a mean step, what is recomputed included.
    pub operations: f64,
    pub seconds_per_step: f64,
}

/// Operations a second of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    forward: f64,
    backward: f64,
}

impl Rates {
    /// From a probe of one of `layers` layers with the rows of `work`.
    pub(super) fn new(work: &Work, probe: Probe, layers: usize) -> Rates {
        let layers_of = |operations: f64| operations / layers as f64;
        let forward = layers_of(work.forward) / probe.forward;
        // the layer runs again as fast as the first time, or, where the clock was too coarse to say, all of it at one rate
        let again = layers_of(work.again) / forward;
        let backward = match probe.backward > 1.5 * again {
            true => layers_of(work.backward) / (probe.backward - again),
            false => (layers_of(work.backward) + layers_of(work.again)) / probe.backward,
        };
        Rates { forward, backward }
    }
}

impl Pace {
    /// `recomputed` of `layers` run their forward pass again. A mean step is `share` of `work`.
    pub(super) fn new(work: &Work, rates: Rates, recomputed: usize, layers: usize, share: f64) -> Pace {
        let again = recomputed as f64 * work.again / layers as f64;
        let forward = work.forward + again + work.head_forward;
        let backward = work.backward + work.head_backward;
        Pace {
            operations: share * (forward + backward),
            seconds_per_step: share * (forward / rates.forward + backward / rates.backward),
        }
    }
}

/// How long the steps of a run will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunPace {
    /// In the first epoch.
    pub first: Pace,
    /// In later epochs, if that differs: the log-probs of the reference are cached then.
    pub later: Option<Pace>,
    /// Steps of the first epoch.
    pub first_epoch: u64,
    pub steps: u64,
}

impl RunPace {
    /// All steps, without evaluations.
    pub fn seconds(&self) -> f64 {
        let later = self.later.unwrap_or(self.first).seconds_per_step;
        self.first.seconds_per_step * self.first_epoch as f64 + later * (self.steps - self.first_epoch) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_its_layers_and_its_head() {
        let work = Work { forward: 80.0, backward: 40.0, again: 20.0, head_forward: 10.0, head_backward: 5.0 };
        // ten operations a second forward, five backward
        let rates = Rates::new(&work, Probe { forward: 2.0, backward: 2.5 }, 4);
        assert_eq!(rates, Rates { forward: 10.0, backward: 5.0 });
        let pace = Pace::new(&work, rates, 2, 4, 0.5);
        assert_eq!(pace.operations, 0.5 * (80.0 + 10.0 + 10.0 + 45.0));
        assert_eq!(pace.seconds_per_step, 0.5 * (100.0 / 10.0 + 45.0 / 5.0));
    }

    #[test]
    fn later_epochs_have_their_own_pace() {
        let pace = |seconds_per_step: f64| Pace { operations: 1.0, seconds_per_step };
        let run = RunPace { first: pace(3.0), later: Some(pace(2.0)), first_epoch: 4, steps: 10 };
        assert_eq!(run.seconds(), 4.0 * 3.0 + 6.0 * 2.0);
        assert_eq!(RunPace { later: None, ..run }.seconds(), 30.0);
    }
}
