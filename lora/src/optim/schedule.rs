//! The learning rate over the steps of a run.

use serde::{Deserialize, Serialize};

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Falls in a straight line to 0 at the end of the run.
    Linear,
    /// Falls along half a cosine to 0 at the end of the run. Source: arXiv 1608.03983, eq. 5, without restarts.
    Cosine,
    /// The same rate at every step, without a warm-up.
    Constant,
    /// The same rate at every step after the warm-up.
    ConstantWithWarmup,
}

/// How many steps of linear growth a run starts with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// This many steps.
    Steps(u64),
    /// This share of the steps of the run, rounded up.
    Ratio(f64),
}

impl Warmup {
    /// Returns the warm-up steps of a run of `total_steps`, as `get_warmup_steps` of transformers does.
    pub fn steps(self, total_steps: u64) -> u64 {
        match self {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
        }
    }
}

/// The learning rate of every step, equal to that of transformers' `get_scheduler`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// How the rate changes after the warm-up.
    pub kind: ScheduleKind,
    /// The largest rate.
    pub learning_rate: f64,
    /// Steps at the start of the run in which the rate grows linearly from 0.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

impl Schedule {
    /// Returns the rate of update number `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if self.kind == ScheduleKind::Constant {
            return self.learning_rate;
        }
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let factor = match self.kind {
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind) -> Vec<f64> {
        let schedule = Schedule { kind, learning_rate: 8.0, warmup_steps: 2, total_steps: 10 };
        (0..10).map(|step| schedule.at(step)).collect()
    }

    /// The expected rates come from transformers 5.23: `get_linear_schedule_with_warmup(optimizer, 2, 10)` and the functions of
    /// the other schedules, with base rate 8.
    #[test]
    fn the_rates_are_those_of_transformers() {
        assert_eq!(rates(ScheduleKind::Linear), [0.0, 4.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(rates(ScheduleKind::ConstantWithWarmup), [0.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(rates(ScheduleKind::Constant), [8.0; 10]);
        let cosine = rates(ScheduleKind::Cosine);
        assert_eq!(cosine[2], 8.0);
        assert!((cosine[6] - 4.0).abs() < 1e-12 && cosine[9] > 0.0);
    }

    /// transformers computes `math.ceil(num_training_steps * warmup_ratio)`.
    #[test]
    fn a_ratio_is_rounded_up() {
        let cases = [(0.0, 100, 0), (0.1, 100, 10), (0.1, 101, 11), (0.03, 20, 1), (1.0, 7, 7), (0.1, 1, 1)];
        for (ratio, total, steps) in cases {
            assert_eq!(Warmup::Ratio(ratio).steps(total), steps, "{ratio} of {total}");
        }
        assert_eq!(Warmup::Steps(5).steps(3), 5);
    }
}
