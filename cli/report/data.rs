//! Reports on data: what a survey found, and how far a pass over the data is.

use super::numbers::{records, rows};
use super::pass::Pass;
use super::{detail, say};
use crate::args::ReadingArgs;
use crate::run_files::RECORD;
use align_data::{
    BadRow, ByName, DataObserver, DataProgress, Dataset, Form, LabelCounts, Repeats, Sequences, SftPart, Shape,
    SpanSource, Stage, Survey, TurnMarker,
};
use align_engine::model::{ModelConfig, RopeScaling};

/// Reports what a survey of the data found, so that no row is dropped or cut silently.
pub(crate) fn data(label: &str, survey: &Survey, asked: &ReadingArgs) {
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
    for line in counted([
        (survey.cut_answers, "answers cut at --max-length"),
        (survey.same_after_cut, "pairs whose answers are the same once they are cut"),
        (survey.empty_answers, "answers that are empty or blank, scored with their end token"),
    ]) {
        say!("  {line}");
    }
    repeats(&survey.copies, "is a copy of an earlier one", "are copies of an earlier one");
    let tokens =
        ["has the tokens of an earlier one and is no copy", "have the tokens of an earlier one and are no copies"];
    repeats(&survey.same_tokens, tokens[0], tokens[1]);
    details(survey);
    super::warnings(survey, asked);
    teaches_nothing(label, survey);
}

/// Warns about rows with more tokens than `max_position_embeddings`, the number of positions that the model was trained for.
pub(crate) fn beyond_positions(label: &str, data: &Dataset, config: &ModelConfig) {
    let most = config.max_position_embeddings;
    if config.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. })) {
        return; // dynamic scaling adapts to the length of the text
    }
    let longest = |i: usize| {
        let lengths = data.lengths(i);
        lengths.prompt + lengths.answers.iter().map(|&tokens| lengths.kept_of(tokens)).max().unwrap_or(0)
    };
    let beyond: Vec<usize> = (0..data.len()).map(longest).filter(|&tokens| tokens > most).collect();
    if let Some(longest) = beyond.iter().max() {
        say!(
            "warning: {label}: {} longer than the {most} positions that the model was trained for (max_position_embeddings of \
             config.json), up to {longest} tokens; --max-length {most} cuts them",
            rows(beyond.len() as u64)
        );
    }
}

/// Reports findings that do not change which rows are used.
fn details(survey: &Survey) {
    if let Some(sequences) = &survey.sequences {
        let of_answers = survey.prompt_tokens + survey.answer_tokens;
        detail!("  scored: {}; {} of {of_answers} tokens", self::sequences(sequences), survey.scored_tokens);
    }
    let numbers = survey.numbers;
    for line in counted([
        (numbers.weight, "rows with a weight, by which their loss is multiplied"),
        (numbers.margin, "rows with a margin, which some losses subtract from the reward margin"),
        (numbers.win_probability, "rows with win probabilities"),
        (numbers.beats_probability, "rows with a probability that chosen beats rejected"),
    ]) {
        detail!("  {line}");
    }
    let share = 100.0 * survey.stopping_answers as f64 / survey.answers.max(1) as f64;
    detail!("  answers end with a stop token: {share:.0} % of {}, before cuts", survey.answers);
    for line in counted([
        (survey.blank_lines, "blank lines skipped"),
        (survey.moved_boundaries, "prompts whose last tokens change when the answer follows; the answer starts there"),
    ]) {
        detail!("  {line}");
    }
    for example in &survey.boundary_examples {
        let (alone, followed) = (example.alone.concat(), example.followed.concat());
        detail!("    row {} (from 0, as --row counts): {alone:?} becomes {followed:?}", example.row);
    }
    if !survey.ignored_columns.is_empty() {
        let names: Vec<_> = survey.ignored_columns.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        detail!("  columns that are not read: {}", names.join(", "));
    }
}

/// Returns the findings with a count above 0, each with its count.
fn counted<const N: usize>(counts: [(usize, &'static str); N]) -> impl Iterator<Item = String> {
    counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"))
}

/// Warns about data from which a loss can learn nothing, or almost nothing.
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

/// Reports on the data of a command that reads only the prompts.
pub(crate) fn prompts(survey: &Survey, asked: &ReadingArgs) {
    by_names("data", survey);
    super::warnings(survey, asked);
}

/// Reports which columns are read because of their names, and the turn marker that ends prompts without a column.
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

/// Reports if no row that was looked at has the turn marker of the run, or if the rows without it are dropped.
pub(crate) fn turn_marker_of_run(of_run: Option<&TurnMarker>, survey: &Survey) {
    let (Some(of_run), Some(own)) = (of_run, &survey.decided.turn_marker) else { return };
    let lacks_it = BadRow::NoTurnMarker { chosen: String::new(), rejected: String::new(), marker: None };
    let are_dropped = survey.dropped.iter().any(|dropped| dropped.label == lacks_it.label());
    let (of_run, is_own, own) = (of_run.to_string(), of_run == own, own.to_string());
    if !is_own {
        say!(
            "note: the prompts of the run end with {of_run:?}, but no row looked at has that: these prompts end with {own:?}"
        );
    } else if are_dropped {
        say!("warning: rows without {of_run:?} are dropped: it ends the prompts of the run ({RECORD})");
    }
}

/// Prints a note if the rows of an evaluation have a different form from the training rows.
pub(crate) fn other_form(trained: &Survey, evaluated: &Survey) {
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

/// Describes which part of sequences is scored, and how it is found.
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

/// Shows how far reading and tokenising the data has come, and prints the notes that come up on the way.
#[derive(Default)]
pub(crate) struct DataReport {
    stage: Option<(Stage, Pass)>,
}

impl DataObserver for DataReport {
    fn progress(&mut self, progress: DataProgress) {
        let DataProgress { stage, done, total } = progress;
        let what = match stage {
            Stage::Comparing => "comparing the data with the cached tokens",
            Stage::Reading => "reading the data",
            Stage::Tokenising => "tokenising the data",
            Stage::Checking => "checking the cached tokens",
        };
        if self.stage.as_ref().is_none_or(|(last, _)| *last != stage) {
            self.stage = Some((stage, Pass::new(what)));
        }
        if let Some((_, pass)) = &mut self.stage {
            let per_second = pass.per_second(done);
            let speed = match stage {
                Stage::Comparing | Stage::Reading | Stage::Checking => format!("{:.0} MB/s", per_second / 1e6),
                Stage::Tokenising => format!("{per_second:.0} records/s"),
            };
            pass.at(done, total, &speed);
        }
    }

    fn note(&mut self, text: String) {
        say!("{text}");
    }

    fn detail(&mut self, text: String) {
        detail!("{text}");
    }
}
