//! Estimates how long a run still takes, from the time of its steps and evaluations so far.

use std::collections::VecDeque;
use std::time::Duration;

/// Number of steps that must end before the first estimate, and before the planned time is corrected.
pub(super) const FIRST_STEPS: usize = 3;
/// Number of recent durations that the estimate uses.
const RECENT: usize = 16;
/// Each new duration changes the estimate for one step or evaluation by this factor at most, so that one slow step moves the time
/// left only a little.
const MOST_CHANGE: f64 = 1.2;

/// The time that the steps and evaluations of a run still take.
pub(super) struct TimeLeft {
    steps_left: u64,
    evaluations_left: u64,
    step: Typical,
    evaluation: Typical,
}

impl TimeLeft {
    /// Begins the estimate for a run of `steps` steps and `evaluations` evaluations, including the one before the first step.
    pub(super) fn new(steps: u64, evaluations: u64) -> TimeLeft {
        TimeLeft {
            steps_left: steps,
            evaluations_left: evaluations,
            step: Typical::after(FIRST_STEPS),
            evaluation: Typical::after(1),
        }
    }

    /// Notes that a step has ended.
    pub(super) fn step(&mut self, took: Duration) {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.step.add(took);
    }

    /// Notes that an evaluation has ended.
    pub(super) fn evaluation(&mut self, took: Duration) {
        self.evaluations_left = self.evaluations_left.saturating_sub(1);
        self.evaluation.add(took);
    }

    /// Returns the estimated seconds of a step. `None` before the third step has ended.
    pub(super) fn seconds_per_step(&self) -> Option<f64> {
        self.step.seconds
    }

    /// Returns the time left. `None` before the third step has ended.
    pub(super) fn left(&self) -> Option<Duration> {
        let steps = self.steps_left as f64 * self.seconds_per_step()?;
        let evaluations = self.evaluations_left as f64 * self.evaluation.seconds.unwrap_or(0.0);
        Some(Duration::from_secs_f64(steps + evaluations))
    }
}

/// An estimate of the time of a step, or of an evaluation.
struct Typical {
    recent: VecDeque<f64>,
    /// Number of durations that the first estimate needs.
    first: usize,
    seconds: Option<f64>,
}

impl Typical {
    fn after(first: usize) -> Typical {
        Typical { recent: VecDeque::new(), first, seconds: None }
    }

    fn add(&mut self, took: Duration) {
        self.recent.push_back(took.as_secs_f64());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.first {
            let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
            let near = |before: f64| mean.clamp(before / MOST_CHANGE, before * MOST_CHANGE);
            self.seconds = Some(self.seconds.map_or(mean, near));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: u64 = 200;
    const EVERY: u64 = 20;

    /// Returns, for each step of a made-up run after which there is an estimate: its number, the estimated time left and the true
    /// time left, in seconds. Step `i` takes `step(i)` seconds and each evaluation `evaluation` seconds.
    fn figures(step: impl Fn(u64) -> f64, evaluation: f64) -> Vec<(u64, f64, f64)> {
        let seconds = Duration::from_secs_f64;
        let mut left = TimeLeft::new(STEPS, 1 + STEPS / EVERY);
        left.evaluation(seconds(evaluation));
        assert_eq!(left.left(), None, "no step has ended");
        let mut clock = 0.0;
        let mut figures = Vec::new();
        for i in 1..=STEPS {
            clock += step(i);
            left.step(seconds(step(i)));
            figures.extend(left.left().map(|left| (i, left.as_secs_f64(), clock)));
            if i.is_multiple_of(EVERY) {
                clock += evaluation;
                left.evaluation(seconds(evaluation));
            }
        }
        assert_eq!(left.left(), Some(Duration::ZERO));
        figures.into_iter().map(|(i, left, at)| (i, left, clock - at)).collect()
    }

    #[test]
    fn the_time_left_does_not_swing_and_counts_evaluations_in() {
        let noisy = |i: u64| 1.0 + 0.4 * ((i * 7919 % 13) as f64 / 13.0 - 0.5);
        let runs: [(&str, &dyn Fn(u64) -> f64); 5] = [
            ("steady", &noisy),
            ("a cold start", &move |i| if i == 1 { 8.0 } else { noisy(i) }),
            ("long batches", &move |i| if i % 7 == 0 { 4.0 } else { noisy(i) }),
            ("another program for a while", &move |i| if (90..95).contains(&i) { 9.0 } else { noisy(i) }),
            ("a known reference from the second epoch on", &move |i| noisy(i) / if i > 100 { 1.6 } else { 1.0 }),
        ];
        for (what, step) in &runs {
            for evaluation in [0.0, 5.0] {
                let figures = figures(step, evaluation);
                assert_eq!(figures[0].0, FIRST_STEPS as u64, "{what}");
                for pair in figures.windows(2).take_while(|pair| pair[1].0 <= STEPS - EVERY) {
                    let ratio = pair[1].1 / pair[0].1;
                    assert!((1.0 / 1.5..1.5).contains(&ratio), "{what}, {evaluation} s: {pair:?}");
                }
            }
        }
        for (step, left, really) in figures(noisy, 5.0).into_iter().filter(|(step, ..)| *step > 20) {
            assert!((left - really).abs() <= 0.15 * really + 2.0, "step {step}: {left} s, really {really} s");
        }
    }
}
