//! `train`: from flags to a run, and what is printed and written on its way.

use super::eval::needs;
use crate::args::{CacheChoice, DataCacheChoice, OnBadRowChoice, PrecisionChoice, ReferenceChoice, TrainArgs};
use crate::demo;
use crate::error::{CliError, free_output};
use crate::loaded::{self, DataOptions, LoadedModel, MAX_LENGTH};
use crate::reference_cache;
use crate::rejects::Rejects;
use crate::report::{self, Progress, say};
use crate::run_folder::{REJECTS, RunFolder};
use align_engine::generate::{Request, Sampling, generate};
use align_engine::model::adapters::AdapterSet;
use align_engine::model::stop_token_ids;
use align_engine::new_file::{NewFile, NewFileError};
use align_kernels::Device;
use align_lora::adapter::{Adapter, LoraConfig, Task};
use align_lora::data::{Dataset, EncodedPrompt, Encoder, Needs, Shuffle, SpecialTokens, prompts};
use align_lora::objective::{KnobKind, KnobValue, Objective, Scores};
use align_lora::train::{EvalMetrics, Observer, Size, StepMetrics, TrainError, TrainOptions, Trainer};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Prompts of the demo that are continued before and after training.
const DEMO_PROMPTS: usize = 3;

pub fn run(args: &TrainArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let objective = Objective::new(&args.loss, knobs)?;
    let _ = args.data.columns.map()?; // a mistake in it is said before a model is loaded
    let options = options(args)?;
    let output = match &args.output {
        Some(path) => free_output(path, args.overwrite)?,
        None => fresh_output(Path::new("runs"), &objective),
    };
    let device = loaded::device(&args.device)?;
    device.clone().install(|| train(args, objective, options, &output, &device))
}

fn train(
    args: &TrainArgs,
    objective: Objective,
    options: TrainOptions,
    output: &Path,
    device: &Device,
) -> Result<(), CliError> {
    if args.eval_steps.is_some() && args.eval_data.is_empty() && args.eval_fraction.is_none() && !args.model.demo {
        return Err(CliError::Usage("--eval-steps needs held-out rows: give --eval-data or --eval-fraction".into()));
    }
    match (objective.reference_data(), args.reference_data.is_empty()) {
        (true, true) => return Err(TrainError::NoReferenceData { loss: objective.name() }.into()),
        (false, false) => {
            let name = objective.name();
            return Err(CliError::Usage(format!(
                "--reference-data: loss {name} has no term for it; --loss max_po with --eta above 0 has one"
            )));
        }
        (true, false) | (false, true) => {}
    }
    loaded::check_rejects(&args.data.keep, args.data.on_bad_row)?;
    let loaded = loaded::model(&args.model, device)?;
    let adapter = adapter(args, &loaded, &objective, options.seed)?;
    let options = TrainOptions { lora_dropout: adapter.config().dropout as f32, ..options };
    let reference = match (&args.reference, &args.model.adapter) {
        (Some(choice), _) => loaded.reference(choice)?,
        // training goes on from an adapter: what it was is the reference
        (None, Some(_)) if objective.reference() => Some(adapter.snapshot()?),
        (None, _) => None,
    };
    if objective.scores() == Scores::Reward && args.reference.is_some() {
        let name = objective.name();
        return Err(CliError::Usage(format!("--reference: loss {name} trains a reward model, which has none")));
    }
    let kind = needs(objective.data());
    let files = loaded.data_files(&args.data, |demo| match kind {
        Needs::Labels => demo.labelled.clone(),
        Needs::Rewards => demo.scored.clone(),
        Needs::Pairs | Needs::Sequences | Needs::Answers => demo.pairs_train.clone(),
    })?;
    let eval_files = match &loaded.demo {
        _ if args.eval_fraction.is_some() => Vec::new(),
        // the demo has held-out pairs, which losses of labelled answers take apart
        Some(demo) if args.eval_data.is_empty() && matches!(kind, Needs::Pairs | Needs::Labels | Needs::Sequences) => {
            vec![demo.paths.pairs_eval.clone()]
        }
        _ => loaded::data_files(&args.eval_data)?,
    };
    let mut rejects = Rejects::new();
    let mut open = |files: &[PathBuf], needs: Needs| -> Result<Dataset, CliError> {
        let max_length = args.data.max_length.unwrap_or(MAX_LENGTH);
        let encoder = loaded.encoder_of(&objective, args.model.chat_template.as_deref(), max_length, &args.data)?;
        let options =
            DataOptions { needs, on_bad_row: args.data.on_bad_row, keep: &args.data.keep, demo: args.model.demo };
        loaded::data(files, encoder, &options, &mut rejects)
    };
    let mut data = open(&files, kind)?;
    let mut eval = if eval_files.is_empty() { None } else { Some(open(&eval_files, kind)?) };
    let texts_files = loaded::data_files(&args.reference_data)?;
    let texts = if texts_files.is_empty() { None } else { Some(open(&texts_files, Needs::Sequences)?) };
    let mut held_out = None;
    if let Some(fraction) = args.eval_fraction {
        let split = data.split(fraction, args.seed)?;
        held_out = Some(split.held_out_prompts);
        (data, eval) = (split.train, Some(split.held_out));
    }

    let cache = match objective.reference() {
        true => reference_cache::open(
            args.cache.reference_cache.as_ref(),
            &loaded,
            reference.as_deref(),
            options.precision,
        )?,
        false => None,
    };
    let mut trainer = Trainer::new(&loaded.model, adapter.set().clone(), reference, objective, options)?;
    if let Some(cache) = cache {
        trainer = trainer.with_reference_cache(cache);
    }
    let of_texts = texts.as_ref().map(|texts| texts.survey().clone());
    if let Some(texts) = texts {
        trainer = trainer.with_reference_data(texts);
    }
    let total_steps = trainer.total_steps(data.len());
    let plan = trainer.plan(&data, eval.as_ref())?;
    summary(args, &loaded, &adapter, &trainer, device, total_steps);
    if let Some(cache) = trainer.reference_cache() {
        reference_cache::summary(cache);
    }
    report::plan(&plan);
    report::pace(&trainer.pace(&plan)?);
    report::data("data", data.survey());
    match (&eval, held_out) {
        (Some(eval), Some(prompts)) => say!(
            "evaluation data: {} of {prompts} prompts held out (--eval-fraction, seed {}), {} trained on",
            report::rows(eval.len() as u64),
            args.seed,
            report::rows(data.len() as u64)
        ),
        (Some(eval), None) => report::data("evaluation data", eval.survey()),
        (None, _) => {}
    }

    if let Some(survey) = &of_texts {
        report::data("reference data", survey);
    }

    let folder = RunFolder::create(output)?;
    let named = NamedFiles {
        data: if args.data.data.is_empty() { &[] } else { &files },
        eval: if args.eval_data.is_empty() { &[] } else { &eval_files },
        texts: &texts_files,
    };
    write_config(args, &named, adapter.config(), &trainer, folder.path())?;
    match &args.data.keep.rejects {
        Some(path) => rejects.save(path)?,
        None if args.data.on_bad_row == OnBadRowChoice::Skip => rejects.save(&folder.path().join(REJECTS))?,
        None => {}
    }
    let show = match trainer.objective().scores() {
        Scores::LogProbs => DemoPrompts::new(args, &loaded)?,
        // a reward model has no answers of its own
        Scores::Reward => None,
    };
    if let Some(show) = &show {
        show.print("before training", &loaded, None)?;
    }
    let metrics_path = folder.path().join("metrics.jsonl");
    let metrics = File::create(&metrics_path).map_err(|error| CliError::file(&metrics_path, &error))?;
    let mut watcher = Watcher {
        metrics,
        path: metrics_path,
        progress: Progress::new(total_steps, args.logging_steps),
        adapter: &adapter,
        output: folder.path(),
    };
    if let Some(eval) = &eval {
        watcher.evaluation(&trainer.evaluate(eval, 0.0)?)?;
    }
    watcher.progress.begin();
    let result = trainer.run(&data, eval.as_ref(), &mut watcher);
    watcher.progress.finish();
    result?;
    adapter.save(folder.path())?;
    folder.finish()?;
    if let Some(show) = &show {
        show.print("after training", &loaded, Some(adapter.set()))?;
    }
    let peak = Size(device.memory().peak as u64);
    say!("adapter: {} (peak of computed memory {peak}, planned {})", output.display(), Size(plan.peak));
    Ok(())
}

fn options(args: &TrainArgs) -> Result<TrainOptions, CliError> {
    let demo = args.model.demo;
    if let Some(fraction) = args.eval_fraction
        && !(fraction > 0.0 && fraction < 1.0)
    {
        return Err(CliError::Usage(format!("--eval-fraction {fraction}: expected a number between 0 and 1")));
    }
    let in_range = |name: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
        true => Ok(value),
        false => Err(CliError::Usage(format!("--{name} {value}: expected a number from {low} to {high}"))),
    };
    let learning_rate = args.learning_rate.unwrap_or(if demo { demo::LEARNING_RATE } else { 1e-5 });
    Ok(TrainOptions {
        learning_rate: in_range("learning-rate", learning_rate, 0.0, 1e3)?,
        schedule: args.schedule.into(),
        warmup_steps: args.warmup_steps,
        weight_decay: in_range("weight-decay", args.weight_decay, 0.0, 1e3)?,
        max_grad_norm: in_range("max-grad-norm", args.max_grad_norm, 0.0, f64::MAX)?,
        epochs: args.epochs.unwrap_or(if demo { demo::EPOCHS } else { 1 }),
        max_steps: args.max_steps,
        batch_size: (args.batch_size.unwrap_or(8) * args.gradient_accumulation_steps) as usize,
        micro_batch_tokens: args.pack.micro_batch_tokens as usize,
        max_length: args.data.max_length.unwrap_or(MAX_LENGTH) as usize,
        lora_dropout: in_range("lora-dropout", args.lora_dropout.unwrap_or(0.0), 0.0, 0.99)? as f32,
        seed: args.seed,
        shuffle: if args.no_shuffle { Shuffle::Off } else { Shuffle::Seeded(args.seed) },
        eval_steps: args.eval_steps,
        precision: args.device.precision.into(),
        memory: args.memory.memory.map(|Size(bytes)| bytes),
    })
}

/// The adapter that is trained: that of `--adapter`, or a fresh one.
fn adapter(args: &TrainArgs, loaded: &LoadedModel, objective: &Objective, seed: u64) -> Result<Adapter, CliError> {
    if let Some(dir) = &args.model.adapter {
        let shape = [
            (args.lora_rank.is_some(), "--lora-rank"),
            (args.lora_alpha.is_some(), "--lora-alpha"),
            (!args.target_modules.is_empty(), "--target-modules"),
            (args.rslora, "--rslora"),
        ];
        if let Some((_, flag)) = shape.into_iter().find(|(given, _)| *given) {
            return Err(CliError::Usage(format!(
                "{flag} describes a fresh adapter; that of --adapter keeps its own shape"
            )));
        }
        let mut adapter = loaded.adapter_of(objective, dir)?;
        if let Some(dropout) = args.lora_dropout {
            adapter.set_dropout(dropout)?;
        }
        return Ok(adapter);
    }
    let defaults = LoraConfig::default();
    let text = args.target_modules.join(",");
    let targets = match args.target_modules.is_empty() {
        false => text.parse().map_err(|fault| CliError::Usage(format!("--target-modules {text}: {fault}")))?,
        true => defaults.target_modules.clone(),
    };
    for name in targets.unmatched(loaded.model.linears()) {
        say!("warning: --target-modules {name}: no layer of the model has that name");
    }
    let config = LoraConfig {
        task: match objective.scores() {
            Scores::LogProbs => Task::CausalLm,
            Scores::Reward => Task::SequenceClassification,
        },
        rank: args.lora_rank.map_or(defaults.rank, |rank| rank as usize),
        alpha: args.lora_alpha.unwrap_or(defaults.alpha),
        dropout: args.lora_dropout.unwrap_or(defaults.dropout),
        target_modules: targets,
        use_rslora: args.rslora,
        base_model_name_or_path: Some(loaded.base_name.clone()),
        ..defaults
    };
    Ok(Adapter::fresh(&loaded.model, &config, seed)?)
}

/// The first of `runs/<loss>-1`, `-2`, ... that does not exist.
fn fresh_output(runs: &Path, objective: &Objective) -> PathBuf {
    let name = objective.name().replace([':', ','], "_");
    let path = |n: u32| runs.join(format!("{name}-{n}"));
    (1..).map(path).find(|path| !path.exists()).expect("there are fewer than 2^32 runs")
}

fn summary(
    args: &TrainArgs,
    loaded: &LoadedModel,
    adapter: &Adapter,
    trainer: &Trainer<'_>,
    device: &Device,
    total_steps: u64,
) {
    let config = loaded.model.config();
    say!("model: {} ({}, {} parameters)", loaded.found, config.family, report::count(config.parameters()));
    if !loaded.unused.is_empty() {
        say!("  tensors that are not used: {}", loaded.unused.join(", "));
    }
    if !loaded.all_zero.is_empty() {
        say!("  warning: matrices of zeros: {}", loaded.all_zero.join(", "));
    }
    let precision = match args.device.precision {
        PrecisionChoice::F32 => "f32",
        PrecisionChoice::Bf16 if device.has_bf16_unit() => "bf16",
        PrecisionChoice::Bf16 => "bf16 (rounded: this processor multiplies f32 faster)",
    };
    say!("device: {}, products in {precision}", device.describe());
    let layers = adapter.set().iter().count();
    let head = if adapter.set().score_head().is_some() { " and a score head" } else { "" };
    let trained = report::count(adapter.trainable_parameters() as u64);
    say!(
        "adapter: {} on {layers} linear layers{head}, {trained} trainable parameters",
        report::adapter(adapter.config())
    );
    let objective = trainer.objective();
    say!("loss: {} ({})", objective.name(), report::knobs(objective));
    let reference = match (&args.reference, &args.model.adapter) {
        _ if objective.scores() == Scores::Reward => "none: a reward model scores each answer by itself".to_owned(),
        (Some(ReferenceChoice::Adapter(dir)), _) => format!("the model with {}", dir.display()),
        (None, Some(dir)) => format!("the starting state, {}", dir.display()),
        (Some(ReferenceChoice::Base), _) | (None, None) => "the model without an adapter".to_owned(),
    };
    say!("reference: {reference}");
    let options = trainer.options();
    say!(
        "run: {total_steps} steps of {} rows, at most {} tokens a forward pass, learning rate {}",
        options.batch_size,
        options.micro_batch_tokens,
        report::rate(options.learning_rate)
    );
}

/// The files that the flags name, patterns resolved: a later run reads the same ones.
struct NamedFiles<'a> {
    data: &'a [PathBuf],
    eval: &'a [PathBuf],
    texts: &'a [PathBuf],
}

/// Everything resolved, as `--config` reads it.
fn write_config(
    args: &TrainArgs,
    named: &NamedFiles<'_>,
    adapter: &LoraConfig,
    trainer: &Trainer<'_>,
    output: &Path,
) -> Result<(), CliError> {
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: toml::Value| table.insert(key.to_owned(), value);
    let absolute = |path: &Path| -> toml::Value {
        std::path::absolute(path).unwrap_or(path.to_owned()).to_string_lossy().into_owned().into()
    };
    let files = |paths: &[PathBuf]| toml::Value::Array(paths.iter().map(|path| absolute(path)).collect());
    let options = trainer.options();
    match &args.model.model {
        Some(name) if Path::new(name).is_dir() => put("model", absolute(Path::new(name))),
        Some(name) => put("model", name.clone().into()),
        None => put("demo", true.into()),
    };
    if let Some(dir) = &args.model.adapter {
        put("adapter", absolute(dir));
    } else {
        put("lora-rank", toml::Value::Integer(adapter.rank as i64));
        put("lora-alpha", adapter.alpha.into());
        put(
            "target-modules",
            match args.target_modules.is_empty() {
                true => "all-linear".into(),
                false => args.target_modules.join(",").into(),
            },
        );
        put("rslora", adapter.use_rslora.into());
    }
    match &args.reference {
        Some(ReferenceChoice::Base) => {
            put("reference", "base".into());
        }
        Some(ReferenceChoice::Adapter(dir)) => {
            put("reference", absolute(dir));
        }
        None => {}
    }
    if let Some(path) = &args.model.chat_template {
        put("chat-template", absolute(path));
    }
    if !named.data.is_empty() {
        put("data", files(named.data));
    }
    if !named.eval.is_empty() {
        put("eval-data", files(named.eval));
    }
    if !named.texts.is_empty() {
        put("reference-data", files(named.texts));
    }
    if let Some(fraction) = args.eval_fraction {
        put("eval-fraction", fraction.into());
    }
    if let Some(path) = &args.data.keep.rejects {
        put("rejects", absolute(path));
    }
    match &args.data.keep.data_cache {
        Some(DataCacheChoice::Folder(folder)) => {
            put("data-cache", absolute(folder));
        }
        Some(DataCacheChoice::Off) => {
            put("data-cache", "off".into());
        }
        None => {}
    }
    let columns = args.data.columns.map()?;
    if !columns.is_empty() {
        put("columns", columns.to_string().into());
    }
    if let Some(part) = args.data.sft.sft_on {
        put("sft-on", format!("{part:?}").to_lowercase().into());
    }
    put("loss", trainer.objective().name().into());
    for (knob, value) in trainer.objective().knobs() {
        match (value, knob.kind) {
            (KnobValue::Number(number), _) => put(knob.flag, number.into()),
            (KnobValue::Switch(on), KnobKind::Switch { default }) => put(knob.flag, (on != default).into()),
            (KnobValue::Switch(on), _) => put(knob.flag, on.into()),
            (KnobValue::Choice(word), _) => put(knob.flag, word.into()),
        };
    }
    put("lora-dropout", adapter.dropout.into());
    put("learning-rate", options.learning_rate.into());
    put("schedule", format!("{:?}", args.schedule).to_lowercase().into());
    put("warmup-steps", toml::Value::Integer(options.warmup_steps as i64));
    put("weight-decay", options.weight_decay.into());
    put("max-grad-norm", options.max_grad_norm.into());
    put("epochs", toml::Value::Integer(options.epochs as i64));
    if let Some(steps) = options.max_steps {
        put("max-steps", toml::Value::Integer(steps as i64));
    }
    if let Some(steps) = options.eval_steps {
        put("eval-steps", toml::Value::Integer(steps as i64));
    }
    put("batch-size", toml::Value::Integer(options.batch_size as i64));
    put("micro-batch-tokens", toml::Value::Integer(options.micro_batch_tokens as i64));
    if let Some(bytes) = options.memory {
        put("memory", toml::Value::Integer(bytes as i64));
    }
    put("max-length", toml::Value::Integer(options.max_length as i64));
    put("on-bad-row", format!("{:?}", args.data.on_bad_row).to_lowercase().into());
    put("seed", toml::Value::Integer(options.seed as i64));
    put("no-shuffle", args.no_shuffle.into());
    put("precision", format!("{:?}", args.device.precision).to_lowercase().into());
    match &args.cache.reference_cache {
        Some(CacheChoice::Off) => put("reference-cache", "off".into()),
        Some(CacheChoice::Memory) => put("reference-cache", "memory".into()),
        Some(CacheChoice::Folder(folder)) => put("reference-cache", absolute(folder)),
        None => None,
    };
    let path = output.join("config.toml");
    let failed = |error: NewFileError| CliError::file(&path, &error.source);
    let mut file = NewFile::create(&path).map_err(failed)?;
    file.write(table.to_string().as_bytes()).map_err(failed)?;
    file.finish().map_err(failed)
}

/// Writes metrics, shows progress, keeps the adapter of the last evaluation on disk.
struct Watcher<'a> {
    metrics: File,
    path: PathBuf,
    progress: Progress,
    adapter: &'a Adapter,
    output: &'a Path,
}

impl Watcher<'_> {
    fn write(&mut self, line: &serde_json::Value) -> Result<(), TrainError> {
        let write = |file: &mut File| file.write_all(format!("{line}\n").as_bytes());
        write(&mut self.metrics).map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}

impl Observer for Watcher<'_> {
    fn step(&mut self, metrics: &StepMetrics, total_steps: u64) -> Result<(), TrainError> {
        self.progress.step(metrics, total_steps);
        self.write(&metrics.to_json())
    }

    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError> {
        self.progress.evaluation(metrics);
        self.write(&metrics.to_json())
    }

    fn epoch(&mut self, _epoch: u64) -> Result<(), TrainError> {
        Ok(self.adapter.save(self.output)?)
    }

    fn note(&mut self, text: String) {
        self.progress.note(&text);
    }
}

/// Some held-out prompts of the demo, to see what training changes.
struct DemoPrompts {
    encoder: Encoder,
    prompts: Vec<EncodedPrompt>,
    request: Request,
}

impl DemoPrompts {
    fn new(args: &TrainArgs, loaded: &LoadedModel) -> Result<Option<DemoPrompts>, CliError> {
        let Some(demo) = &loaded.demo else { return Ok(None) };
        let encoder = loaded.encoder(None, args.data.max_length.unwrap_or(MAX_LENGTH))?;
        let prompts = prompts(std::slice::from_ref(&demo.paths.pairs_eval), &encoder, Some(DEMO_PROMPTS))?;
        let request = Request {
            max_new_tokens: 48,
            min_new_tokens: 0,
            stop: stop_token_ids(&loaded.dir, loaded.model.config())?,
            sampling: Sampling::GREEDY,
            precision: args.device.precision.into(),
            first_sequence: 0,
        };
        Ok(Some(DemoPrompts { encoder, prompts, request }))
    }

    fn print(&self, when: &str, loaded: &LoadedModel, adapter: Option<&Arc<AdapterSet>>) -> Result<(), CliError> {
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let completions = generate(&loaded.model, adapter, &ids, &self.request, |_, _| true)?;
        let text = |ids: &[u32]| {
            let decoded = self.encoder.tokenizer().decode(ids, SpecialTokens::Skip);
            decoded.map_err(|error| CliError::Runtime(error.to_string()))
        };
        let mut lines = format!("{when}:\n");
        for (prompt, completion) in self.prompts.iter().zip(&completions) {
            lines += &format!("  {}\n    -> {}\n", text(&prompt.ids)?.trim(), text(&completion.tokens)?.trim());
        }
        match super::print(lines.as_bytes()) {
            // nobody reads the samples: the run is worth finishing all the same
            Err(CliError::ClosedOutput) => Ok(()),
            printed => printed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_output_does_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let objective = Objective::new("exo", &[]).unwrap();
        let first = fresh_output(folder.path(), &objective);
        assert_eq!(first, folder.path().join("exo_pair-1"));
        std::fs::create_dir(&first).unwrap();
        assert_eq!(fresh_output(folder.path(), &objective), folder.path().join("exo_pair-2"));
    }
}
