//! `train`: from flags to a run, and what is printed and written on its way.

use super::losses::EXPERIMENTAL;
use crate::args::{OnBadRowChoice, PrecisionChoice, ReferenceChoice, TrainArgs};
use crate::chat_template;
use crate::config_file::{self, NamedFiles};
use crate::data::{self, DataOptions};
use crate::demo::{self, DemoPrompts};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::reference;
use crate::reference_cache;
use crate::rejects::Rejects;
use crate::report::{self, Progress, say};
use crate::run_files::{self, REJECTS};
use crate::run_folder::{Output, RunFolder};
use crate::run_record::{self, OfRun};
use crate::watcher::Watcher;
use align_data::{ChatTemplate, ColumnMap, Dataset, Encoder, Reading, RowKind, Shuffle};
use align_engine::model::REFERENCE;
use align_kernels::Device;
use align_lora::adapter::{Adapter, LoraConfig, Task};
use align_lora::objective::{KnobValue, Objective, Scores};
use align_lora::train::{Observer, Size, TrainError, TrainOptions, Trainer};
use std::path::PathBuf;

pub fn run(args: &TrainArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let objective = Objective::new(&args.loss, knobs)?;
    let _ = args.data.reading()?; // reports a mistake in it before a model is loaded
    let options = options(args)?;
    let output = match &args.output {
        Some(path) => {
            run_files::check_output(path, args.overwrite)?;
            Output::Named { path: path.clone(), overwrite: args.overwrite }
        }
        None => fresh_output(&objective),
    };
    let device = loaded::device(&args.device)?;
    device.clone().install(|| train(args, objective, options, &output, &device))
}

fn train(
    args: &TrainArgs,
    objective: Objective,
    options: TrainOptions,
    output: &Output,
    device: &Device,
) -> Result<(), CliError> {
    let kind = objective.data();
    // the demo has held-out pairs, which losses of labelled answers take apart
    let demo_evaluates = args.model.demo && matches!(kind, RowKind::Pair | RowKind::Labelled | RowKind::Sequence);
    if args.eval_steps.is_some() && args.eval_data.is_empty() && args.eval_fraction.is_none() && !demo_evaluates {
        return Err(CliError::Usage("--eval-steps needs held-out rows: give --eval-data or --eval-fraction".into()));
    }
    if args.max_completions.is_some() && kind != RowKind::Scored {
        return Err(TrainError::NoCompletions { loss: objective.name() }.into());
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
    if !objective.reference() {
        let name = objective.name();
        if args.reference.is_some() {
            return Err(CliError::Usage(format!("--reference: loss {name} reads no reference; leave the flag out")));
        }
        if args.cache.reference_cache.is_some() {
            say!("--reference-cache is not used: loss {name} reads no reference");
        }
    }
    data::check_rejects(&args.data.keep, args.data.on_bad_row)?;
    loaded::check_temperature(&args.logp, &objective)?;
    let loaded = loaded::model(&args.model, device)?;
    let mut adapter = adapter(args, &loaded, &objective, options.seed)?;
    adapter.set_base(loaded.base_hash());
    let options = TrainOptions { lora_dropout: adapter.config().dropout as f32, ..options };
    // the run keeps its reference: the adapter of `--reference`, or the trained one as it was at the start
    let (reference, kept) = match (&args.reference, &args.model.adapter) {
        (Some(ReferenceChoice::Adapter(dir)), _) => {
            let other = loaded.adapter(dir)?;
            (Some(other.set().clone()), Some(other))
        }
        // training goes on from an adapter: what it was is the reference
        (None, Some(_)) if objective.reference() => (Some(adapter.snapshot()?), None),
        (Some(ReferenceChoice::Base), _) | (None, _) => (None, None),
    };
    let files = loaded.data_files(&args.data, |demo| match kind {
        RowKind::Labelled => demo.labelled.clone(),
        RowKind::Scored => demo.scored.clone(),
        RowKind::Pair | RowKind::Sequence => demo.pairs_train.clone(),
    })?;
    let eval_files = match &loaded.demo {
        _ if args.eval_fraction.is_some() => Vec::new(),
        Some(demo) if args.eval_data.is_empty() && demo_evaluates => vec![demo.paths.pairs_eval.clone()],
        _ => data::data_files(&args.eval_data)?,
    };
    let texts_files = data::data_files(&args.reference_data)?;
    let named = NamedFiles {
        data: if args.data.data.is_empty() { &[] } else { &files },
        eval: if args.eval_data.is_empty() { &[] } else { &eval_files },
        texts: &texts_files,
    };
    let mut rejects = Rejects::new();
    let opened = open(args, &loaded, &objective, [&files, &eval_files, &texts_files], &mut rejects);
    if let (Err(_), Some(path)) = (&opened, &args.data.keep.rejects) {
        // where every row is bad they say why
        std::mem::replace(&mut rejects, Rejects::new()).save(path)?;
    }
    let Data { mut data, mut eval, texts } = opened?;
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
            options.logp_temperature,
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
    let reading = &args.data.reading;
    report::data("data", data.survey(), reading);
    run_record::compare_form(args.model.adapter.as_deref(), data.survey().form())?;
    match (&eval, held_out) {
        (Some(eval), Some(prompts)) => say!(
            "evaluation data: {} of {prompts} prompts held out (--eval-fraction, seed {}), {} trained on",
            report::rows(eval.len() as u64),
            args.seed,
            report::rows(data.len() as u64)
        ),
        (Some(eval), None) => {
            report::data("evaluation data", eval.survey(), reading);
            report::other_form(data.survey(), eval.survey());
        }
        (None, _) => {}
    }

    if let Some(survey) = &of_texts {
        report::data("reference data", survey, reading);
    }

    let resolved = config_file::resolved(args, &named, adapter.config(), &trainer)?;
    let folder = RunFolder::create(output)?;
    config_file::write(&resolved, folder.path())?;
    let template = data.encoder().template().map(ChatTemplate::sources).cloned();
    chat_template::keep(template.as_ref(), folder.path())?;
    // texts need no template, so the model's may be broken; the record names it all the same
    let template = template.or_else(|| chat_template::of_model(&loaded.dir));
    if trainer.reference().is_some() {
        // nothing is trained yet, so the adapter is still the starting one
        kept.as_ref().unwrap_or(&adapter).save(&folder.path().join(REFERENCE))?;
    }
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
    let progress = Progress::new(total_steps, args.logging_steps);
    let of_run = OfRun {
        reference: reference::name_of(&trainer),
        objective: run_record::describe(trainer.objective(), trainer.options().logp_temperature),
        chat_template: run_record::template_name(template.as_ref()),
        decided: data.survey().decided.clone(),
        form: data.survey().form(),
    };
    let mut watcher = Watcher::new(folder.path(), &adapter, of_run, progress)?;
    if let Some(eval) = &eval {
        watcher.evaluation(&trainer.evaluate(eval, 0.0)?)?;
    }
    watcher.progress.begin();
    let result = trainer.run(&data, eval.as_ref(), &mut watcher);
    watcher.progress.finish();
    result?;
    watcher.keep(trainer.state())?;
    drop(watcher);
    let output = folder.output().to_owned();
    folder.finish()?;
    if let Some(show) = &show {
        show.print("after training", &loaded, Some(adapter.set()))?;
    }
    let peak = Size(device.memory().peak as u64);
    say!("adapter: {} (peak of computed memory {peak}, planned {})", output.display(), Size(plan.peak));
    Ok(())
}

/// The data of a run.
struct Data {
    data: Dataset,
    eval: Option<Dataset>,
    texts: Option<Dataset>,
}

/// Opens the files of `--data`, `--eval-data` and `--reference-data`.
fn open(
    args: &TrainArgs,
    loaded: &LoadedModel,
    objective: &Objective,
    [files, eval_files, texts_files]: [&[PathBuf]; 3],
    rejects: &mut Rejects,
) -> Result<Data, CliError> {
    let max_length = loaded::max_length(&args.data);
    let template = loaded.template(&args.model)?;
    let template = template.as_deref();
    let mut open = |files: &[PathBuf], kind: RowKind, encoder: Encoder| -> Result<Option<Dataset>, CliError> {
        if files.is_empty() {
            return Ok(None);
        }
        let options = DataOptions {
            kind: Some(kind),
            on_bad_row: args.data.on_bad_row,
            keep: &args.data.keep,
            demo: args.model.demo,
            drops: args.drops.into(),
        };
        let data = data::data(files, encoder, &options, rejects)?;
        Ok(Some(data.with_unpaired_order(args.unpaired_order.into())))
    };
    let kind = objective.data();
    let encoder = || loaded.encoder_of(objective, template, max_length, &args.data);
    let data = open(files, kind, encoder()?)?.ok_or_else(|| CliError::Usage("--data is missing".into()))?;
    let eval = open(eval_files, kind, encoder()?.with_decided(data.survey().decided.clone()))?;
    // --columns, --pairs and --sft-on are about the rows of --data, not about these texts
    let reading = Reading { columns: ColumnMap::default(), pairs: None, ..args.data.reading()? };
    let texts = open(texts_files, RowKind::Sequence, loaded.encoder(template, max_length)?.with_reading(reading))?;
    Ok(Data { data, eval, texts })
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
    let learning_rate = args.optimiser.learning_rate.unwrap_or(if demo { demo::LEARNING_RATE } else { 1e-5 });
    Ok(TrainOptions {
        learning_rate: in_range("learning-rate", learning_rate, 0.0, 1e3)?,
        schedule: args.optimiser.schedule.into(),
        warmup: args.optimiser.warmup()?,
        optimizer: args.optimiser.optimizer()?,
        weight_decay: in_range("weight-decay", args.optimiser.weight_decay, 0.0, 1e3)?,
        max_grad_norm: in_range("max-grad-norm", args.optimiser.max_grad_norm, 0.0, f64::MAX)?,
        epochs: args.epochs.unwrap_or(if demo { demo::EPOCHS } else { 1 }),
        max_steps: args.max_steps,
        max_completions: args.max_completions.map(|most| most as usize),
        batch_size: (args.batch_size.unwrap_or(8) * args.gradient_accumulation_steps) as usize,
        micro_batch_tokens: args.pack.micro_batch_tokens as usize,
        max_length: loaded::max_length(&args.data) as usize,
        lora_dropout: in_range("lora-dropout", args.lora_dropout.unwrap_or(0.0), 0.0, 0.99)? as f32,
        seed: args.seed,
        shuffle: if args.no_shuffle { Shuffle::Off } else { Shuffle::Seeded(args.seed) },
        eval_steps: args.eval_steps,
        precision: args.device.precision.into(),
        logp_temperature: args.logp.temperature(),
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

/// A fresh `runs/<loss>-<n>`.
fn fresh_output(objective: &Objective) -> Output {
    Output::Fresh { runs: "runs".into(), name: objective.name().replace([':', ','], "_") }
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
    if loaded.unused.vision > 0 {
        say!("  {} tensors of the vision tower are not used", loaded.unused.vision);
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
    say!("loss: {}", report::loss(objective));
    if objective.experimental() {
        say!("  {EXPERIMENTAL}");
    }
    let reference = match (&args.reference, &args.model.adapter) {
        _ if objective.scores() == Scores::Reward => "none: a reward model scores each answer by itself".to_owned(),
        _ if !objective.reference() => "none: the loss reads the policy alone".to_owned(),
        (Some(ReferenceChoice::Adapter(dir)), _) => format!("the model with {}", dir.display()),
        (None, Some(dir)) => format!("the starting state, {}", dir.display()),
        (Some(ReferenceChoice::Base), _) | (None, None) => "the model without an adapter".to_owned(),
    };
    say!("reference: {reference}");
    let options = trainer.options();
    let answers = options.max_completions.map_or(String::new(), |most| format!(", at most {most} answers of a row"));
    say!(
        "run: {total_steps} steps of {} rows{answers}, at most {} tokens a forward pass, learning rate {}",
        options.batch_size,
        options.micro_batch_tokens,
        report::rate(options.learning_rate)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_output_has_the_name_of_the_loss() {
        let name = |loss: &str| match fresh_output(&Objective::new(loss, &[]).unwrap()) {
            Output::Fresh { runs, name } => (runs, name),
            named => panic!("{named:?}"),
        };
        assert_eq!(name("exo"), ("runs".into(), "exo_pair".to_owned()));
        assert_eq!(name("dpo:0.8,sft:0.2"), ("runs".into(), "dpo_0.8_sft_0.2".to_owned()));
    }
}
