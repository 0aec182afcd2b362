//! Reports what a run will need, before its first step.

use super::numbers::{rate, seconds};
use super::{detail, say};
use align_lora::train::{Pace, Plan, RunPace, Size, TrainOptions};
use std::time::Duration;

/// Smallest and largest factor by which the time of a run may differ from the planned time. The machine may be busier than when
/// its speed was measured, and evaluations are not planned.
const RANGE: [f64; 2] = [0.75, 1.5];

/// Prints the size, memory and time of a run.
pub(crate) fn plan(options: &TrainOptions, plan: &Plan, pace: &RunPace) {
    say!(
        "plan: {} step{} of {} rows, learning rate {}, {} of memory, {}",
        pace.steps,
        if pace.steps == 1 { "" } else { "s" },
        options.batch_size,
        rate(options.learning_rate),
        Size(plan.peak),
        PlannedTime::of(pace)
    );
    memory(plan);
    detail!("time: {}", step_time(pace));
}

fn memory(plan: &Plan) {
    let Plan { limit, peak, layers, layers_kept, .. } = *plan;
    let parts: Vec<_> = plan.parts.iter().map(|(name, bytes)| format!("{name} {}", Size(*bytes))).collect();
    detail!(
        "memory: {} planned of {} ({layers_kept} of {layers} layers kept in the largest forward pass, {} tokens of {})",
        Size(peak),
        Size(limit),
        plan.rows(),
        if plan.reference_rows() > 0 { "policy and reference" } else { "the policy alone" }
    );
    detail!("  {}", parts.join(", "));
}

/// Describes how long a step takes, how many operations it has, and how many it computes per second.
pub(crate) fn step_time(pace: &RunPace) -> String {
    let Pace { operations, seconds_per_step } = pace.first;
    let rate = operations / seconds_per_step / 1e9;
    let later = pace.later.map_or(String::new(), |later| {
        format!(", {:.2} s from the second epoch on, with a known reference", later.seconds_per_step)
    });
    let operations = step_operations(pace);
    format!("about {seconds_per_step:.2} s a step ({operations} at {rate:.0} GFLOP/s){later}")
}

/// Describes how many operations a step takes.
pub(crate) fn step_operations(pace: &RunPace) -> String {
    match pace.first.operations {
        few @ 0.0..1e12 => format!("{:.1} GFLOP", few / 1e9),
        many => format!("{:.1} TFLOP", many / 1e12),
    }
}

/// The time that a run will take, without evaluations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PlannedTime {
    /// Time of all steps, in seconds.
    seconds: f64,
    /// Time of a step of the first epoch, in seconds.
    first_step: f64,
}

impl PlannedTime {
    /// Returns the time that the steps take at a pace.
    pub(crate) fn of(pace: &RunPace) -> PlannedTime {
        PlannedTime { seconds: pace.seconds(), first_step: pace.first.seconds_per_step }
    }

    /// Describes the time that all steps take if a step takes `seconds_per_step`, as the first ones did. `None` if this agrees
    /// with the plan, or if the time is below a second.
    pub(crate) fn corrected(&self, seconds_per_step: f64) -> Option<String> {
        let factor = seconds_per_step / self.first_step;
        let all = self.seconds * factor;
        let is_planned = (RANGE[0]..=RANGE[1]).contains(&factor) || all < 1.0;
        (!is_planned).then(|| {
            let all = seconds(Duration::from_secs_f64(all));
            format!("time: about {all} for all steps, as the first ones went; planned were {self}")
        })
    }
}

impl std::fmt::Display for PlannedTime {
    /// Writes e.g. `3 to 6 min`, in a unit that makes the longer time a small number.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, high] = RANGE.map(|factor| self.seconds * factor);
        let (unit, seconds) = match high {
            ..1.0 => return f.write_str("under 1 s"),
            ..90.0 => ("s", 1.0),
            ..5400.0 => ("min", 60.0),
            _ => ("h", 3600.0),
        };
        match ((low / seconds).floor(), (high / seconds).ceil()) {
            (0.0, high) => write!(f, "under {high:.0} {unit}"),
            (low, high) => write!(f, "{low:.0} to {high:.0} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planned_time_is_a_range() {
        let of = |seconds: f64| PlannedTime { seconds, first_step: seconds / 100.0 };
        let words = [0.2, 1.2, 20.0, 200.0, 20_000.0].map(|seconds| of(seconds).to_string());
        assert_eq!(words, ["under 1 s", "under 2 s", "15 to 30 s", "2 to 5 min", "4 to 9 h"]);
        assert_eq!([0.8, 1.0, 1.4].map(|factor| of(200.0).corrected(factor * 2.0)), [None, None, None]);
        let slow = of(200.0).corrected(6.0).unwrap();
        assert_eq!(slow, "time: about 10:00 for all steps, as the first ones went; planned were 2 to 5 min");
        assert_eq!(of(0.02).corrected(0.0006), None, "nobody waits for that");
    }
}
