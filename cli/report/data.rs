//! What is said about data: what a survey found, and how far a pass over it is.

use super::numbers::{records, rows};
use super::{bar_style, say};
use crate::args::ReadingArgs;
use crate::run_files::RECORD;
use align_data::{
    BadRow, ByName, DataObserver, DataProgress, Form, LabelCounts, Repeats, Sequences, SftPart, Shape, SpanSource,
    Stage, Survey, TurnMarker,
};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::IsTerminal;
use std::time::Instant;

/// What a survey of the data found: nothing is dropped, cut or moved silently.
pub fn data(label: &str, survey: &Survey, asked: &ReadingArgs) {
    let mut line = format!("{label}: {} kept, from {}", rows(survey.kept as u64), records(survey.records as u64));
    if let Some(layout) = &survey.layout {
        line += &format!(" ({layout})");
    }
    say!("{line}");
    by_names(label, survey);
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
        (counts.weight, "a weight, by which their loss is multiplied"),
        (counts.margin, "a margin, which some losses subtract from the reward margin"),
        (counts.win_probability, "win probabilities"),
        (counts.beats_probability, "a probability that chosen beats rejected"),
    ];
    for (rows, what) in numbers.into_iter().filter(|(rows, _)| *rows > 0) {
        say!("  {rows} of {} rows with {what}", survey.kept);
    }
    let answers = survey.answers.max(1);
    let share = 100.0 * survey.stopping_answers as f64 / answers as f64;
    say!("  answers end with a stop token: {share:.0} % of {}, before cuts", survey.answers);
    let counts = [
        (survey.cut_answers, "answers cut at --max-length"),
        (survey.same_after_cut, "pairs whose answers are the same once they are cut"),
        (survey.empty_answers, "answers that are empty or blank, scored with their end token"),
        (survey.blank_lines, "blank lines skipped"),
        (survey.moved_boundaries, "prompts whose last tokens change when the answer follows; the answer starts there"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        say!("  {count} {what}");
    }
    for example in &survey.boundary_examples {
        say!(
            "    row {} (from 0, as --row counts): {:?} becomes {:?}",
            example.row,
            example.alone.concat(),
            example.followed.concat()
        );
    }
    repeats(&survey.copies, "is a copy of an earlier one", "are copies of an earlier one");
    let tokens =
        ["has the tokens of an earlier one and is no copy", "have the tokens of an earlier one and are no copies"];
    repeats(&survey.same_tokens, tokens[0], tokens[1]);
    if !survey.ignored_columns.is_empty() {
        let names: Vec<_> = survey.ignored_columns.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        say!("  columns that are not read: {}", names.join(", "));
    }
    super::warnings(survey, asked);
    teaches_nothing(label, survey);
}

/// Warns of data of which a loss can learn nothing, or next to nothing.
fn teaches_nothing(label: &str, survey: &Survey) {
    let LabelCounts { desirable, undesirable } = survey.labels;
    if desirable + undesirable > 1 && (desirable == 0 || undesirable == 0) {
        say!(
            "warning: {label}: all {} rows have the label {}: losses of labelled answers (kto, bco) learn from the difference to rows with \
             the other one",
            desirable + undesirable,
            undesirable == 0
        );
    }
    if survey.same_after_cut > 0 && 2 * survey.same_after_cut >= survey.kept {
        say!(
            "warning: {label}: {} of {} pairs are the same once they are cut, and teach nothing; raise --max-length",
            survey.same_after_cut,
            survey.kept
        );
    }
}

/// Reports on data of which only the prompts are read.
pub fn prompts(survey: &Survey, asked: &ReadingArgs) {
    by_names("data", survey);
    super::warnings(survey, asked);
}

/// Reports how columns and the ends of prompts were found without a flag.
fn by_names(label: &str, survey: &Survey) {
    for named in &survey.by_name {
        by_name(label, named, survey);
    }
    if let Some(marker) = &survey.decided.turn_marker {
        let whose = match survey.layout.map(|layout| layout.shape) {
            Some(Shape::PairImplicitPrompt) => "the prompts",
            Some(Shape::Pair) => "prompts that have no column",
            _ => return,
        };
        say!("{label}: {whose} end with {:?}", marker.to_string());
    }
}

/// Reports rows that lack the turn marker of the run: all of them, or those that are dropped for it.
pub fn turn_marker_of_run(of_run: Option<&TurnMarker>, survey: &Survey) {
    let (Some(of_run), Some(own)) = (of_run, &survey.decided.turn_marker) else { return };
    let lacks_it = BadRow::NoTurnMarker { chosen: String::new(), rejected: String::new(), marker: None };
    let are_dropped = survey.dropped.iter().any(|dropped| dropped.label == lacks_it.label());
    let (of_run, is_own, own) = (of_run.to_string(), of_run == own, own.to_string());
    match (is_own, are_dropped) {
        (false, _) => {
            say!(
                "note: the prompts of the run end with {of_run:?}, but no row looked at has that: these prompts end with {own:?}"
            )
        }
        (true, true) => {
            say!("warning: rows without {of_run:?} are dropped: it ends the prompts of the run ({RECORD})")
        }
        (true, false) => {}
    }
}

/// Says if the rows of an evaluation are of another form than those that are trained on.
pub fn other_form(trained: &Survey, evaluated: &Survey) {
    if let (Some(trained), Some(evaluated)) = (trained.form(), evaluated.form())
        && trained != evaluated
    {
        let [trained, evaluated] = [trained, evaluated].map(Form::describe);
        say!(
            "note: the rows of the evaluation are {evaluated}, and those of the training {trained}: other tokens stand around the answers"
        );
    }
}

/// Reports a column that is read because of its name.
fn by_name(label: &str, named: &ByName, survey: &Survey) {
    let what = match named.own.as_str() {
        "prompt" => "the prompt is the column",
        "messages" if survey.layout.is_some_and(|layout| layout.shape == Shape::Messages) => return,
        "messages" => "the prompt is in the column",
        "input" => "the prompt continues, on a line of its own, with the column",
        "system" => "the system's text is the column",
        "chosen" => "the chosen answer is the column",
        "rejected" => "the rejected answer is the column",
        _ => return,
    };
    say!("{label}: {what} `{}` of {}", named.column, records(named.records as u64));
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
            Stage::Comparing => ("comparing the data with the cached tokens", format!("{:.0} MB/s", per_second / 1e6)),
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
