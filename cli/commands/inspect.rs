//! `inspect`: what a model, an adapter or a data file is, and what would be trained.

use super::{print, print_json};
use crate::args::{InspectArgs, ModelArgs};
use crate::data::{Drops, RowsOf};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::report;
use crate::run_record;
use align_data::{
    Answer, Dataset, Encoded, EncodedRow, Encoder, Histogram, Lengths, LongAnswers, Repeats, Sequences, SftPart,
    SpanSource,
};
use align_kernels::Device;
use align_lora::adapter::{ADAPTER_CONFIG, Adapter, LoraConfig};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    report::be_verbose(); // `inspect` shows everything it can find out
    check(args)?;
    let device = Device::cpu(None)?;
    device.clone().install(|| {
        let model_args = model_args(args)?;
        let loaded = loaded::model(&model_args, &device)?;
        let mut facts = json!({ "model": model(&loaded) });
        match &model_args.adapter {
            Some(dir) => facts["adapter"] = adapter(&loaded.adapter_for(dir, None)?),
            None => facts["fresh_adapter"] = adapter(&fresh_adapter(args, &loaded)?),
        }
        let mut histograms = String::new();
        if has_data(args) {
            let (drops, long_answers) = (Drops::Reported, LongAnswers::Cut);
            let rows = RowsOf { model: &model_args, data: &args.data, kind: None, drops, long_answers };
            let data = rows.open(&loaded, |demo| demo.pairs_train.clone())?;
            facts["data"] = survey(&data);
            match args.json {
                true => {
                    facts["data"]["lengths"] = lengths(&data.survey().lengths);
                    report::warnings(data.survey(), &args.data.reading);
                }
                false => {
                    report::data("data", data.survey(), &args.data.reading);
                    histograms = bars(&data.survey().lengths, loaded::max_length(&args.data));
                }
            }
            run_record::compare_form(model_args.adapter.as_deref(), data.survey().form())?;
            if let Some(row) = args.row {
                facts["row"] = dump(&data, row as usize)?;
            }
        }
        match args.json {
            true => print_json(&facts),
            false => print((table(&facts, 0) + &histograms).as_bytes()),
        }
    })
}

fn has_data(args: &InspectArgs) -> bool {
    !args.data.data.is_empty() || args.model.demo
}

/// Refuses flags about rows if there are no rows. Reports mistakes in such flags before a model is loaded.
fn check(args: &InspectArgs) -> Result<(), CliError> {
    let of_data = [
        ("--row", args.row.is_some()),
        ("--max-length", args.data.max_length.is_some()),
        ("--columns", !args.data.reading.columns.is_empty()),
        ("--implicit-prompt", args.data.reading.implicit_prompt),
        ("--chat", args.data.reading.chat),
        ("--system", args.data.reading.system.is_some()),
        ("--pairs", args.data.pairs.is_some()),
        ("--sft-on", args.data.sft_on.is_some()),
        ("--rejects", args.data.keep.rejects.is_some()),
        ("--data-cache", args.data.keep.data_cache.is_some()),
    ];
    match of_data.into_iter().find(|(_, given)| *given && !has_data(args)) {
        Some((flag, _)) => Err(CliError::Usage(format!("{flag} is about the rows of --data, which is missing"))),
        None => args.data.reading().map(drop),
    }
}

/// Returns the model that the flags name, or the base of the adapter.
fn model_args(args: &InspectArgs) -> Result<ModelArgs, CliError> {
    let mut model = args.model.clone();
    if let ModelArgs { model: None, adapter: Some(dir), demo: false, .. } = &args.model {
        let base = LoraConfig::read(&dir.join(ADAPTER_CONFIG))?.base_model_name_or_path;
        model.demo = base.as_deref() == Some(loaded::DEMO_BASE);
        model.model = base.filter(|_| !model.demo);
    }
    Ok(model)
}

/// Makes the adapter that training would begin with.
fn fresh_adapter(args: &InspectArgs, loaded: &LoadedModel) -> Result<Adapter, CliError> {
    let mut config = LoraConfig::default();
    if let Some(text) = &args.target_modules {
        let parsed = text.parse();
        config.target_modules = parsed.map_err(|fault| CliError::Usage(format!("--target-modules {text}: {fault}")))?;
    }
    Ok(Adapter::fresh(&loaded.model, &config, 0)?)
}

fn model(loaded: &LoadedModel) -> Value {
    let config = loaded.model.config();
    json!({
        "path": name(&loaded.dir),
        "found": loaded.found,
        "family": config.family,
        "parameters": config.parameters(),
        "dtype": config.dtype,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "unused_tensors": loaded.unused.names,
        "unused_vision_tensors": loaded.unused.vision,
        "tensors_of_zeros": loaded.all_zero,
    })
}

/// Returns a path for JSON. Bytes that are not UTF-8 are replaced.
fn name(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}

fn adapter(adapter: &Adapter) -> Value {
    let config = adapter.config();
    json!({
        "description": report::adapter(config),
        "task": config.task.name(),
        "base_model_name_or_path": config.base_model_name_or_path,
        "adapted_layers": adapter.set().iter().count(),
        "updates_not_run": adapter.not_run(),
        "trainable_parameters": adapter.trainable_parameters(),
    })
}

fn survey(data: &Dataset) -> Value {
    let survey = data.survey();
    let lengths: Vec<usize> = (0..data.len()).map(|i| data.lengths(i).tree()).collect();
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    json!({
        "records": survey.records,
        "kept": survey.kept,
        "dropped": survey.dropped.iter().map(|dropped| json!({
            "rows": dropped.rows, "reason": dropped.label, "path": name(&dropped.path), "line": dropped.line,
            "first": dropped.first,
        })).collect::<Vec<_>>(),
        "blank_lines": survey.blank_lines,
        "kind": survey.layout.as_ref().map(ToString::to_string),
        "sequences": survey.sequences.as_ref().map(sequences),
        "answers": survey.answers,
        "answers_cut": survey.cut_answers,
        "pairs_same_after_cut": survey.same_after_cut,
        "answers_empty": survey.empty_answers,
        "answers_with_stop_token": survey.stopping_answers,
        "prompt_ends_moved": survey.moved_boundaries,
        "prompt_end_examples": survey.boundary_examples.iter().map(|example| json!({
            "row": example.row, "alone": example.alone, "followed": example.followed,
        })).collect::<Vec<_>>(),
        "prompt_tokens": survey.prompt_tokens,
        "answer_tokens": survey.answer_tokens,
        "scored_tokens": survey.scored_tokens,
        "rows_with_weight": survey.numbers.weight,
        "rows_with_margin": survey.numbers.margin,
        "rows_with_win_probabilities": survey.numbers.win_probability,
        "rows_with_beats_probability": survey.numbers.beats_probability,
        "tree_tokens": {"median": at(0.5), "p90": at(0.9), "largest": at(1.0)},
        "ignored_columns": survey.ignored_columns,
        "prompts_end_with": survey.decided.turn_marker.as_ref().map(ToString::to_string),
        "copies": repeats(&survey.copies),
        "same_tokens": repeats(&survey.same_tokens),
        "warnings": survey.warnings.iter().filter(|warning| report::is_warning(warning)).map(|warning| json!({
            "rows": warning.rows, "of": if warning.of_all() { survey.records } else { survey.looked_at },
            "path": name(&warning.path), "line": warning.line, "at": warning.at, "excerpt": warning.excerpt,
            "warning": report::warning_line(warning, survey.looked_at),
        })).collect::<Vec<_>>(),
    })
}

/// Returns as JSON which part of a sequence is scored, and how that part is found.
fn sequences(sequences: &Sequences) -> Value {
    let part = match sequences.part {
        SftPart::Completion => "completion",
        SftPart::Assistant => "assistant",
        SftPart::All => "all",
    };
    let found_by = sequences.spans.map(|spans| match spans {
        SpanSource::GenerationMarks => "generation marks",
        SpanSource::TurnByTurn => "turn by turn",
    });
    json!({"scored": part, "found_by": found_by, "chosen_alone": sequences.chosen_alone})
}

/// Returns as JSON how many rows repeat an earlier one, and the places of the first such row and of the row that it repeats.
fn repeats(repeats: &Repeats) -> Value {
    let place = |(path, line): &(std::path::PathBuf, u64)| json!({"path": name(path), "line": line});
    let first = repeats.first.as_ref();
    json!({
        "rows": repeats.rows,
        "original": first.map(|first| place(&first.original)),
        "first": first.map(|first| place(&first.copy)),
    })
}

/// Returns the histograms as JSON: classes of lengths with their counts.
fn lengths(lengths: &Lengths) -> Value {
    let histogram = |histogram: &Histogram| {
        let classes = histogram.classes().into_iter();
        let classes: Vec<Value> =
            classes.map(|class| json!({"from": class.from, "to": class.to, "count": class.count})).collect();
        json!({
            "count": histogram.count, "mean": histogram.mean(), "largest": histogram.largest, "classes": classes,
        })
    };
    json!({
        "prompt": histogram(&lengths.prompt),
        "answer": histogram(&lengths.answer),
        "total": histogram(&lengths.total),
        "beyond_max_length": lengths.beyond,
        "share_beyond_max_length": lengths.share_beyond(),
    })
}

/// Width of the longest bar, in columns.
const BAR: u64 = 40;

/// Draws the histograms as bars.
fn bars(lengths: &Lengths, max_length: u64) -> String {
    let mut text = String::new();
    for (name, histogram) in
        [("prompt", &lengths.prompt), ("answer", &lengths.answer), ("prompt + answer", &lengths.total)]
    {
        text += &format!("tokens of {name}: mean {:.1}, largest {}\n", histogram.mean(), histogram.largest);
        let classes = histogram.classes();
        let most = classes.iter().map(|class| class.count).max().unwrap_or(1);
        for class in classes {
            let range =
                if class.from == class.to { class.from.to_string() } else { format!("{} - {}", class.from, class.to) };
            let bar = "#".repeat((class.count * BAR).div_ceil(most) as usize);
            text += &format!("{range:>18} {:>9} {bar}\n", class.count);
        }
    }
    let share = 100.0 * lengths.share_beyond();
    text + &format!("beyond --max-length {max_length}: {} of {} ({share:.1} %)\n", lengths.beyond, lengths.total.count)
}

/// Returns the id and spelling of every token of each row that comes from one record. For a dropped row, returns the reason.
fn dump(data: &Dataset, record: usize) -> Result<Value, CliError> {
    if record >= data.records() {
        return Err(CliError::Usage(format!("--row {record}: the data has {} rows, counted from 0", data.records())));
    }
    let encoder = data.encoder();
    let outcomes = data.outcomes(record..record + 1)?;
    Ok(outcomes
        .iter()
        .map(|outcome| match outcome {
            Encoded::Dropped { row, reason, .. } => json!({"row": row, "dropped": reason.to_string()}),
            Encoded::Kept(row) => tokens_of(encoder, row),
        })
        .collect())
}

fn tokens_of(encoder: &Encoder, row: &EncodedRow) -> Value {
    let spell = |ids: &[u32]| -> Value {
        ids.iter().map(|&id| json!([id, encoder.tokenizer().token(id).unwrap_or_default()])).collect()
    };
    json!({
        "row": row.row,
        "prompt": spell(&row.prompt),
        "answers": row.answers.iter().map(|answer| spell(answer.kept_ids())).collect::<Vec<_>>(),
        "not_scored": row.answers.iter().map(gaps).collect::<Vec<_>>(),
    })
}

/// Finds the ranges of an answer's tokens that are read but not scored. Returns the first and last place of each.
fn gaps(answer: &Answer) -> Vec<[usize; 2]> {
    let kept = answer.unscored.iter().filter(|gap| gap.start < answer.kept);
    kept.map(|gap| [gap.start, gap.end - 1]).collect()
}

/// Formats keys and values, one per line, with nested objects indented.
fn table(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let Value::Object(object) = value else { return format!("{pad}{value}\n") };
    let mut text = String::new();
    for (key, value) in object {
        match value {
            Value::Object(_) => text += &format!("{pad}{key}\n{}", table(value, depth + 1)),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                text += &format!("{pad}{key}\n");
                for item in items {
                    text += &table(item, depth + 1);
                }
            }
            Value::String(string) => text += &format!("{pad}{key:<28} {string}\n"),
            Value::Null => {}
            other => text += &format!("{pad}{key:<28} {other}\n"),
        }
    }
    text
}
