//! What people see on stderr: the start-up summary, progress, notes. Results go to stdout elsewhere.

use align_lora::adapter::LoraConfig;
use align_lora::data::{DataObserver, DataProgress, Repeats, Sequences, SftPart, SpanSource, Stage, Survey};
use align_lora::objective::{LOSSES, Objective};
use align_lora::train::{EvalMetrics, Pace, Plan, RunPace, Size, StepMetrics};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A line on stderr, where there is one: a closed or full stderr ends no run.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use say;

/// What a survey of the data found: nothing is dropped, cut or moved silently.
pub fn data(label: &str, survey: &Survey) {
    let mut line = format!("{label}: {} kept, from {} records", rows(survey.kept as u64), survey.records);
    if let Some(kind) = &survey.kind {
        line += &format!(" ({kind})");
    }
    say!("{line}");
    for dropped in &survey.dropped {
        let (path, number) = (dropped.path.display(), dropped.line);
        say!("  dropped {}: {}; the first at {path}:{number}: {}", dropped.rows, dropped.label, dropped.first);
    }
    if let Some(sequences) = &survey.sequences {
        let of_answers = survey.prompt_tokens + survey.answer_tokens;
        say!("  scored: {}; {} of {of_answers} tokens", self::sequences(sequences), survey.scored_tokens);
    }
    let counts = survey.numbers;
    let numbers = [
        (counts.weight, "weight"),
        (counts.margin, "margin"),
        (counts.win_probability, "win probabilities"),
        (counts.beats_probability, "a probability that chosen beats rejected"),
    ];
    for (rows, what) in numbers.into_iter().filter(|(rows, _)| *rows > 0) {
        say!("  {rows} of {} rows with {what}", survey.kept);
    }
    let answers = survey.answers.max(1);
    let share = 100.0 * survey.stopping_answers as f64 / answers as f64;
    say!("  answers end with a stop token: {share:.0} % of {}, before cuts", survey.answers);
    if survey.stopping_answers * 2 < survey.answers {
        say!("  warning: a model that is trained on answers without a stop token does not learn to stop");
    }
    let counts = [
        (survey.cut_answers, "answers cut at --max-length"),
        (survey.same_after_cut, "pairs whose answers are the same once they are cut"),
        (survey.empty_answers, "empty answers, scored as the end token alone"),
        (survey.blank_lines, "blank lines passed over"),
        (survey.moved_boundaries, "prompts whose last tokens change when the answer follows; the answer starts there"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        say!("  {count} {what}");
    }
    for example in &survey.boundary_examples {
        say!("    row {}: {:?} becomes {:?}", example.row, example.alone.concat(), example.followed.concat());
    }
    repeats(&survey.copies, "is a copy of an earlier one", "are copies of an earlier one");
    let tokens =
        ["has the tokens of an earlier one and is no copy", "have the tokens of an earlier one and are no copies"];
    repeats(&survey.same_tokens, tokens[0], tokens[1]);
    if !survey.ignored_columns.is_empty() {
        let names: Vec<_> = survey.ignored_columns.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        say!("  columns that are not read: {}", names.join(", "));
    }
}

/// What is scored of sequences, and how it is found.
fn sequences(sequences: &Sequences) -> &'static str {
    match (sequences.part, sequences.spans) {
        (SftPart::Completion, _) if sequences.chosen_alone => "the chosen answers; the rejected ones are not read",
        (SftPart::All, _) if sequences.chosen_alone => "prompts and chosen answers; the rejected ones are not read",
        (SftPart::Completion, _) => "the completions",
        (SftPart::All, _) => "all but the first token of each row",
        (SftPart::Assistant, Some(SpanSource::GenerationMarks)) => {
            "the assistant's turns, as the {% generation %} marks of the chat template have them"
        }
        (SftPart::Assistant, _) => "the assistant's turns, by what the chat template adds with each of them",
    }
}

fn repeats(repeats: &Repeats, one: &str, several: &str) {
    let Some(first) = &repeats.first else { return };
    let place = |(path, line): &(std::path::PathBuf, u64)| format!("{}:{line}", path.display());
    let what = if repeats.rows == 1 { one } else { several };
    say!(
        "  {} {what}; the first: {} repeats {}",
        rows(repeats.rows as u64),
        place(&first.copy),
        place(&first.original)
    );
}

/// Seconds between the lines about a long pass over data.
const SECONDS_A_LINE: u64 = 5;

/// A long pass over data: a bar on a terminal, a line now and then elsewhere. A short one says nothing.
pub struct DataReport {
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
    /// Of the stage.
    started: Instant,
    last_line: Instant,
}

impl DataReport {
    pub fn new() -> DataReport {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(bar_style("{eta} left"));
            bar
        });
        DataReport { bar, stage: None, started: now, last_line: now }
    }
}

impl DataObserver for DataReport {
    fn progress(&mut self, progress: DataProgress) {
        let DataProgress { stage, done, total } = progress;
        if self.stage != Some(stage) {
            (self.stage, self.started) = (Some(stage), Instant::now());
        }
        let per_second = done as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let (what, speed) = match stage {
            Stage::Reading => ("reading the data", format!("{:.0} MB/s", per_second / 1e6)),
            Stage::Tokenising => ("tokenising", format!("{per_second:.0} records/s")),
            Stage::Checking => ("checking the cached tokens", format!("{:.0} MB/s", per_second / 1e6)),
        };
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!("{what}, {speed}"));
        } else if self.last_line.elapsed().as_secs() >= SECONDS_A_LINE {
            self.last_line = Instant::now();
            let percent = 100.0 * done as f64 / total.max(1) as f64;
            let count =
                if stage == Stage::Tokenising { format!(" ({done} of {total} records)") } else { String::new() };
            say!("data: {what}: {percent:.0} %{count}, {speed}");
        }
    }

    fn note(&mut self, text: String) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }
}

impl Drop for DataReport {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar with its message, in colour unless `NO_COLOR` is set.
fn bar_style(end: &str) -> ProgressStyle {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let bar = if colour { "{bar:24.cyan}" } else { "{bar:24}" };
    ProgressStyle::with_template(&format!("{bar} {{pos}}/{{len}}  {{msg}}  {end}")).expect("the template is valid")
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

/// `1:02:03`, `4:05` or `6 s`.
fn seconds(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

/// What an adapter is, in a few words.
pub fn adapter(config: &LoraConfig) -> String {
    let scale = if config.use_rslora { ", scaled by alpha / sqrt(rank)" } else { "" };
    let dropout = if config.dropout > 0.0 { format!(", dropout {}", config.dropout) } else { String::new() };
    let patterns =
        if config.rank_pattern.is_empty() && config.alpha_pattern.is_empty() { "" } else { ", with patterns" };
    format!("rank {}, alpha {}{scale}{dropout}{patterns}", config.rank, config.alpha)
}

/// The knobs of a loss with their values; of those that change any loss of its kind, the ones that do.
pub fn knobs(objective: &Objective) -> String {
    let own =
        |key: &str| LOSSES.iter().any(|loss| loss.knobs.iter().any(|knob| knob.key == key) && key != "sft_reduction");
    let said = objective.knobs().into_iter().filter(|(knob, value)| knob.default() != Some(*value) || own(knob.key));
    said.map(|(knob, value)| format!("{} {value}", knob.key)).collect::<Vec<_>>().join(", ")
}

/// `7e-4`, or `0`.
pub fn rate(learning_rate: f64) -> String {
    if learning_rate == 0.0 { "0".into() } else { format!("{learning_rate:e}") }
}

/// `1 row` or `3 rows`.
pub fn rows(n: u64) -> String {
    format!("{n} {}", if n == 1 { "row" } else { "rows" })
}

/// `12.3 million`, `456 thousand` or `789`.
pub fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}
