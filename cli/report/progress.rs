//! The progress of a run: its steps, its evaluations, the time left.

use super::numbers::seconds;
use super::pass::Pass;
use super::plan::PlannedTime;
use super::say;
use super::terminal::bar;
use super::time_left::{FIRST_STEPS, TimeLeft};
use align_lora::train::{EvalMetrics, StepMetrics};
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// The progress of a run. It prints a line for each logging step and each evaluation. On a terminal, a bar stands below the
/// lines.
pub(crate) struct Progress {
    steps: u64,
    logging_steps: u64,
    planned: PlannedTime,
    left: TimeLeft,
    /// When the last step or evaluation ended.
    since: Instant,
    bar: Option<ProgressBar>,
    evaluating: Option<Pass>,
}

impl Progress {
    /// Begins the progress of a run of `steps` steps and `evaluations` evaluations, including the one at its start.
    pub(crate) fn new(steps: u64, evaluations: u64, logging_steps: u64, planned: PlannedTime) -> Progress {
        let left = TimeLeft::new(steps, evaluations);
        Progress { steps, logging_steps, planned, left, since: Instant::now(), bar: None, evaluating: None }
    }

    /// Reports that a step has ended.
    pub(crate) fn step(&mut self, metrics: &StepMetrics) {
        let took = self.lap();
        self.left.step(took);
        let left = self.left.left().map_or(String::new(), |left| format!("{} left", seconds(left)));
        if metrics.step.is_multiple_of(self.logging_steps) || metrics.step == self.steps {
            let line = format!("step {}/{}  {}  {left}", metrics.step, self.steps, numbers(metrics));
            say!("{}", line.trim_end());
        }
        if metrics.step == FIRST_STEPS as u64 {
            self.correct_the_plan();
        }
        if self.bar.is_none() {
            self.bar = bar(self.steps, "{pos}/{len} steps  {msg}");
            // redraws the bar even during a long step
            self.bar.iter().for_each(|bar| bar.enable_steady_tick(Duration::from_millis(250)));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(left);
        }
    }

    /// Shows that `rows` of `all` rows of an evaluation are done.
    pub(crate) fn evaluating(&mut self, rows: usize, all: usize) {
        let pass = self.evaluating.get_or_insert_with(|| Pass::new("evaluating"));
        pass.at(rows as u64, all as u64, "");
    }

    /// Reports that an evaluation has ended.
    pub(crate) fn evaluation(&mut self, metrics: &EvalMetrics) {
        self.evaluating = None;
        let took = self.lap();
        self.left.evaluation(took);
        let entries = metrics.entries().into_iter().map(|(name, value)| format!("{name} {value:.4}"));
        say!("step {}: {}", metrics.step, entries.collect::<Vec<_>>().join("  "));
    }

    /// Removes the bar.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Returns the time since the last step or evaluation ended.
    fn lap(&mut self) -> Duration {
        let since = std::mem::replace(&mut self.since, Instant::now());
        since.elapsed()
    }

    /// Reports the real time of the steps if the plan was wrong about it.
    fn correct_the_plan(&self) {
        if let Some(words) = self.left.seconds_per_step().and_then(|seconds| self.planned.corrected(seconds)) {
            say!("{words}");
        }
    }
}

/// Formats the numbers of a step that people look at.
fn numbers(metrics: &StepMetrics) -> String {
    let preferences = &metrics.preferences;
    let mut text = format!("loss {:.4}", metrics.loss);
    if let Some(margin) = preferences.rewards_margins {
        text += &format!("  margin {margin:+.4}");
    }
    if let Some(accuracy) = preferences.rewards_accuracies {
        text += &format!("  accuracy {accuracy:.2}");
    }
    text + &format!("  {:.0} tokens/s", metrics.tokens_per_second)
}
