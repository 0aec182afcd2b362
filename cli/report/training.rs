//! What is said about a model at work: what is trained, what it takes, how far it is.

use super::numbers::seconds;
use super::{bar_style, say};
use align_lora::adapter::LoraConfig;
use align_lora::objective::Objective;
use align_lora::train::{EvalMetrics, Pace, Plan, RunPace, Size, StepMetrics};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What an adapter is, in a few words.
pub fn adapter(config: &LoraConfig) -> String {
    let scale = if config.use_rslora { ", scaled by alpha / sqrt(rank)" } else { "" };
    let dropout = if config.dropout > 0.0 { format!(", dropout {}", config.dropout) } else { String::new() };
    let patterns =
        if config.rank_pattern.is_empty() && config.alpha_pattern.is_empty() { "" } else { ", with patterns" };
    format!("rank {}, alpha {}{scale}{dropout}{patterns}", config.rank, config.alpha)
}

/// A loss with its knobs and their values, or each loss of a mix; of those that change any loss of its kind, the ones that do.
pub fn loss(objective: &Objective) -> String {
    let losses = objective.losses().map(|(spec, knobs)| {
        let own = |key: &str| spec.knobs.iter().any(|knob| knob.key == key);
        let said = knobs.into_iter().filter(|(knob, value)| knob.default() != Some(*value) || own(knob.key));
        let knobs: Vec<String> = said.map(|(knob, value)| format!("{} {value}", knob.key)).collect();
        (spec.name, knobs.join(", "))
    });
    let losses: Vec<(&str, String)> = losses.collect();
    match &losses[..] {
        [(_, knobs)] if knobs.is_empty() => objective.name(),
        [(_, knobs)] => format!("{} ({knobs})", objective.name()),
        losses => {
            let parts: Vec<String> = losses.iter().map(|(name, knobs)| format!("{name}: {knobs}")).collect();
            format!("{} ({})", objective.name(), parts.join("; "))
        }
    }
}

/// What a run will hold in memory.
pub fn plan(plan: &Plan) {
    let Plan { limit, peak, layers, layers_kept, .. } = *plan;
    let parts: Vec<_> = plan.parts.iter().map(|(name, bytes)| format!("{name} {}", Size(*bytes))).collect();
    say!(
        "memory: {} planned of {} ({layers_kept} of {layers} layers kept in the largest forward pass, {} tokens of {})",
        Size(peak),
        Size(limit),
        plan.rows(),
        if plan.reference_rows() > 0 { "policy and reference" } else { "the policy alone" }
    );
    say!("  {}", parts.join(", "));
}

/// What a run will take.
pub fn pace(pace: &RunPace) {
    let Pace { operations, seconds_per_step } = pace.first;
    let rate = operations / seconds_per_step / 1e9;
    let all = match pace.seconds().round() {
        ..1.0 => "under 1 s".to_owned(),
        all => seconds(Duration::from_secs_f64(all)),
    };
    let operations = match operations {
        0.0..1e12 => format!("{:.1} GFLOP", operations / 1e9),
        _ => format!("{:.1} TFLOP", operations / 1e12),
    };
    let later = pace.later.map_or(String::new(), |later| {
        format!(", {:.2} s from the second epoch on, with a known reference", later.seconds_per_step)
    });
    say!(
        "time: about {seconds_per_step:.2} s a step ({operations} at {rate:.0} GFLOP/s){later}, {all} for {} steps, evaluation not counted",
        pace.steps
    );
}

/// The progress of a run: a bar on a terminal, a line for each logging step elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    logging_steps: u64,
    started: Option<Instant>,
}

impl Progress {
    /// For a run of `total_steps`.
    pub fn new(total_steps: u64, logging_steps: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stderr());
            bar.set_style(bar_style("{eta} left"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Progress { bar, logging_steps, started: None }
    }

    /// The first step begins: time is counted from here.
    pub fn begin(&mut self) {
        self.started = Some(Instant::now());
    }

    /// A step has ended.
    pub fn step(&self, metrics: &StepMetrics, total_steps: u64) {
        let preferences = &metrics.preferences;
        let mut text = format!("loss {:.4}", metrics.loss);
        if let Some(margin) = preferences.rewards_margins {
            text += &format!("  margin {margin:+.4}");
        }
        if let Some(accuracy) = preferences.rewards_accuracies {
            text += &format!("  accuracy {accuracy:.2}");
        }
        text += &format!("  {:.0} tokens/s", metrics.tokens_per_second);
        match &self.bar {
            Some(bar) => {
                bar.set_position(metrics.step);
                bar.set_message(text);
            }
            None if metrics.step.is_multiple_of(self.logging_steps) || metrics.step == total_steps => {
                let elapsed = self.started.map_or(Duration::ZERO, |started| started.elapsed());
                let left = elapsed.mul_f64((total_steps - metrics.step) as f64 / metrics.step as f64);
                say!("step {}/{total_steps}  {text}  {} left", metrics.step, seconds(left));
            }
            None => {}
        }
    }

    /// An evaluation has ended.
    pub fn evaluation(&self, metrics: &EvalMetrics) {
        let entries = metrics.entries().into_iter().map(|(name, value)| format!("{name} {value:.4}"));
        self.note(&format!("step {}: {}", metrics.step, entries.collect::<Vec<_>>().join("  ")));
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What `generate` has done, with the time of the model alone: from the prompts' tokens to the last new one, without loading.
pub fn generated(n_prompts: u64, new_tokens: u64, elapsed: Duration) {
    let prompts = if n_prompts == 1 { "prompt" } else { "prompts" };
    let tokens = if new_tokens == 1 { "token" } else { "tokens" };
    let elapsed_s = elapsed.as_secs_f64();
    let rate = new_tokens as f64 / elapsed_s;
    say!("{n_prompts} {prompts}, {new_tokens} new {tokens} in {elapsed_s:.2} s: {rate:.1} tokens/s");
}
