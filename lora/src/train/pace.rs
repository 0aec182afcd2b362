//! How long a step will take: its operations, and how fast this machine does them.

use super::counted::{LayerCost, PassCost};

/// Operations of one pass or of several, a multiplication and an addition counted as two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    pub forward: f64,
    /// Operations of the backward passes, without the forward passes that layers run a second time.
    pub backward: f64,
    /// Operations of the forward passes that layers run a second time, only on the rows with a gradient.
    pub recomputed: f64,
}

impl Work {
    /// Returns the work of a pass that costs `cost`. It would cost `kept` if it kept all layers.
    pub(super) fn of(cost: PassCost, kept: PassCost) -> Work {
        Work { forward: cost.forward, backward: kept.backward, recomputed: cost.backward - kept.backward }
    }

    fn all(self) -> f64 {
        self.forward + self.backward + self.recomputed
    }
}

/// Seconds that one layer took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probe {
    pub forward: f64,
    /// Includes a second forward pass, only on the rows with a gradient.
    pub backward: f64,
}

/// How long a step will take, if the machine stays as busy as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Mean operations of a step, including what is recomputed.
    pub operations: f64,
    /// Mean seconds of a step.
    pub seconds_per_step: f64,
}

/// Operations per second of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    forward: f64,
    backward: f64,
}

impl Rates {
    /// Makes rates that are the same forward and backward.
    pub(super) fn even(operations_per_second: f64) -> Rates {
        Rates { forward: operations_per_second, backward: operations_per_second }
    }

    /// Computes the rates from `probe`, the times of one layer. `layer` is the cost of that layer, `recomputed` the operations of
    /// its second forward pass.
    pub(super) fn new(layer: LayerCost, recomputed: f64, probe: Probe) -> Rates {
        let forward = layer.forward / probe.forward;
        // the second forward pass is assumed to be as fast as the first; if `probe.backward` is at most 1.5 times as long as this
        // second pass (the clock may be too coarse), one rate covers the whole backward pass
        let again = recomputed / forward;
        let backward = match probe.backward > 1.5 * again {
            true => (layer.backward - recomputed) / (probe.backward - again),
            false => layer.backward / probe.backward,
        };
        Rates { forward, backward }
    }
}

impl Pace {
    /// Computes the pace of steps that do `share` times `work` on average.
    pub(super) fn new(work: Work, rates: Rates, share: f64) -> Pace {
        let seconds = (work.forward + work.recomputed) / rates.forward + work.backward / rates.backward;
        Pace { operations: share * work.all(), seconds_per_step: share * seconds }
    }
}

/// How long the steps of a run will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunPace {
    /// In the first epoch.
    pub first: Pace,
    /// In later epochs. `None` if they are as fast as the first. They differ if the log-probs of the reference are cached by
    /// then.
    pub later: Option<Pace>,
    /// Steps of the first epoch.
    pub first_epoch: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl RunPace {
    /// Returns the seconds of all steps, without evaluations.
    pub fn seconds(&self) -> f64 {
        let later = self.later.unwrap_or(self.first).seconds_per_step;
        self.first.seconds_per_step * self.first_epoch as f64 + later * (self.steps - self.first_epoch) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_what_its_layers_took() {
        // ten operations a second forward, five backward
        let rates = Rates::new(LayerCost { forward: 20.0, backward: 15.0 }, 5.0, Probe { forward: 2.0, backward: 2.5 });
        assert_eq!(rates, Rates { forward: 10.0, backward: 5.0 });
        let pace = Pace::new(Work { forward: 90.0, backward: 45.0, recomputed: 10.0 }, rates, 0.5);
        assert_eq!(pace.operations, 0.5 * 145.0);
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
