//! `train`: starts a run from flags, and prints and writes what happens in the run.

pub(super) mod adapters;
pub(super) mod data;
pub(super) mod options;
pub(super) mod summary;

use crate::args::{OnBadRowChoice, TrainArgs};
use crate::chat_template;
use crate::config_file;
use crate::demo::DemoPrompts;
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::reference;
use crate::reference_cache;
use crate::rejects;
use crate::report::{self, PlannedTime, Progress, say};
use crate::run_files::{self, REJECTS};
use crate::run_folder::{Output, RunFolder};
use crate::run_record::{self, OfRun};
use crate::watcher::Watcher;
use adapters::RunReference;
use align_data::{ChatTemplate, TemplateSources};
use align_engine::model::REFERENCE;
use align_kernels::Device;
use align_lora::adapter::Adapter;
use align_lora::objective::{KnobValue, Objective, Scores};
use align_lora::train::{Plan, Size, TrainOptions, Trainer};
use data::RunData;

pub(super) fn run(args: &TrainArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let objective = Objective::new(&args.loss, knobs)?;
    let _ = args.data.reading()?; // reports mistakes in the flags before the model is loaded
    let options = options::options(args)?;
    options::check(args, &objective)?;
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

/// A run before its first step.
struct Prepared<'m> {
    loaded: &'m LoadedModel,
    adapter: &'m Adapter,
    reference: RunReference,
    data: RunData,
    trainer: Trainer<'m>,
    plan: Plan,
    time: PlannedTime,
}

fn train(
    args: &TrainArgs,
    objective: Objective,
    options: TrainOptions,
    output: &Output,
    device: &Device,
) -> Result<(), CliError> {
    let loaded = loaded::model(&args.model, device)?;
    let mut adapter = adapters::policy(args, &loaded, &objective, options.seed)?;
    if let Some(hash) = loaded.base_hash() {
        adapter.set_base(hash);
    }
    let options = TrainOptions { lora_dropout: adapter.config().dropout as f32, ..options };
    let mut run = prepare(args, &loaded, &adapter, objective, options, device)?;
    let show = match run.trainer.objective().scores() {
        Scores::LogProbs => DemoPrompts::new(args, &loaded)?,
        // a reward model generates no answers
        Scores::Reward => None,
    };
    let (folder, of_run) = begin_folder(args, output, &mut run)?;
    if let Some(show) = &show {
        show.print("before training", &loaded, None)?;
    }
    let planned = run.plan.peak;
    make_steps(args, run, &folder, of_run)?;
    let output = folder.output().to_owned();
    folder.finish()?;
    if let Some(show) = &show {
        show.print("after training", &loaded, Some(adapter.set()))?;
    }
    let peak = Size(device.memory().peak as u64);
    say!("adapter: {} (peak of computed memory {peak}, planned {})", output.display(), Size(planned));
    Ok(())
}

/// Opens the data and plans the run. Reports what the data hold and what the run will need.
fn prepare<'m>(
    args: &TrainArgs,
    loaded: &'m LoadedModel,
    adapter: &'m Adapter,
    objective: Objective,
    options: TrainOptions,
    device: &Device,
) -> Result<Prepared<'m>, CliError> {
    let reference = RunReference::new(args, loaded, &objective, adapter)?;
    let mut data = RunData::open(args, loaded, &objective)?;
    summary::summary(args, loaded, adapter, &objective);
    summary::details(args, loaded, adapter, &options, device);
    data.report(args)?;
    let mut trainer = trainer(args, loaded, adapter, &reference, objective, options)?;
    if let Some(texts) = data.texts.take() {
        trainer = trainer.with_reference_data(texts);
    }
    let plan = trainer.plan(&data.train, data.eval.as_ref())?;
    let pace = trainer.pace(&plan)?;
    report::plan(trainer.options(), &plan, &pace);
    Ok(Prepared { loaded, adapter, reference, data, trainer, plan, time: PlannedTime::of(&pace) })
}

/// Makes the trainer of a run, with its cache of the reference's log-probs.
///
/// # Errors
/// [`CliError`] if the cache cannot be opened, or if [`Trainer::new`] fails.
pub(super) fn trainer<'m>(
    args: &TrainArgs,
    loaded: &'m LoadedModel,
    adapter: &Adapter,
    reference: &RunReference,
    objective: Objective,
    options: TrainOptions,
) -> Result<Trainer<'m>, CliError> {
    let choice = args.cache.reference_cache.as_ref();
    let cache = match objective.reference() {
        true => {
            let set = reference.set.as_deref();
            reference_cache::open(choice, loaded, set, options.precision, options.logp_temperature)?
        }
        false => None,
    };
    let (set, of_reference) = (adapter.set().clone(), reference.set.clone());
    let trainer = Trainer::new(&loaded.model, set, of_reference, objective, options)?;
    Ok(match (cache, reference_cache::place(choice, loaded)) {
        (Some(cache), _) => {
            reference_cache::summary(&cache);
            trainer.with_reference_cache(cache)
        }
        (None, Some(place)) => trainer.with_planned_cache(place),
        (None, None) => trainer,
    })
}

/// Makes the output directory and writes everything that is known before the first step. Returns what the run's record will say
/// about the run.
fn begin_folder(args: &TrainArgs, output: &Output, run: &mut Prepared<'_>) -> Result<(RunFolder, OfRun), CliError> {
    let Prepared { loaded, adapter, reference, data, trainer, .. } = run;
    let resolved = config_file::resolved(args, &data.named, adapter.config(), trainer)?;
    let folder = RunFolder::create(output)?;
    config_file::write(&resolved, folder.path())?;
    let template = data.train.encoder().template().map(ChatTemplate::sources).cloned();
    chat_template::keep(template.as_ref(), folder.path())?;
    reference.keep(adapter, &folder.path().join(REFERENCE))?;
    match &args.data.keep.rejects {
        Some(path) => rejects::save(&mut data.rejects, path)?,
        None if args.data.on_bad_row == OnBadRowChoice::Skip => {
            rejects::save(&mut data.rejects, &folder.path().join(REJECTS))?
        }
        None => {}
    }
    // if the model's template cannot be compiled, the encoder goes without it, which is enough for plain strings; the record
    // names it anyway
    let template: Option<TemplateSources> = template.or_else(|| chat_template::of_model(&loaded.dir));
    let of_run = OfRun {
        reference: reference::name_of(trainer)?,
        objective: run_record::describe(trainer.objective(), trainer.options().logp_temperature),
        chat_template: Some(run_record::template_name(template.as_ref())),
        decided: data.train.survey().decided.clone(),
        form: data.train.survey().form(),
    };
    Ok((folder, of_run))
}

/// Trains and evaluates, and writes the metrics and the adapter into the folder.
fn make_steps(args: &TrainArgs, run: Prepared<'_>, folder: &RunFolder, of_run: OfRun) -> Result<(), CliError> {
    let Prepared { adapter, data: RunData { train, eval, .. }, mut trainer, time, .. } = run;
    let evaluations = if eval.is_some() { 1 + trainer.evaluations(train.len()) } else { 0 };
    let progress = Progress::new(trainer.total_steps(train.len()), evaluations, args.logging_steps, time);
    let mut watcher = Watcher::new(folder.path(), adapter, of_run, progress)?;
    if let Some(eval) = &eval {
        trainer.evaluate(eval, 0.0, &mut watcher)?;
    }
    let result = trainer.run(&train, eval.as_ref(), &mut watcher);
    watcher.progress.finish();
    result?;
    Ok(watcher.keep(trainer.state())?)
}

/// Names a fresh folder `runs/<loss>-<n>`.
fn fresh_output(objective: &Objective) -> Output {
    Output::Fresh { runs: "runs".into(), name: objective.name().replace([':', ','], "_") }
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
