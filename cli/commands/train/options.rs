//! Finds out from the flags how a run trains, and refuses flags that do not go together.

use crate::args::TrainArgs;
use crate::data;
use crate::demo;
use crate::error::CliError;
use crate::loaded;
use align_data::{RowKind, Shuffle};
use align_lora::objective::Objective;
use align_lora::train::{Size, TrainError, TrainOptions};

/// Refuses flags that have no effect in a run of `objective`. Also refuses a run that needs `--reference-data` but lacks it.
///
/// # Errors
/// [`CliError::Usage`].
pub(crate) fn check(args: &TrainArgs, objective: &Objective) -> Result<(), CliError> {
    let name = || objective.name();
    let has_held_out = !args.eval_data.is_empty() || args.eval_fraction.is_some();
    if args.eval_steps.is_some() && !has_held_out && !demo_evaluates(args, objective) {
        return Err(CliError::Usage("--eval-steps needs held-out rows: give --eval-data or --eval-fraction".into()));
    }
    if args.max_completions.is_some() && objective.data() != RowKind::Scored {
        return Err(TrainError::NoCompletions { loss: name() }.into());
    }
    match (objective.reference_data(), args.reference_data.is_empty()) {
        (true, true) if has_rows(args) => return Err(TrainError::NoReferenceData { loss: name() }.into()),
        (false, false) => {
            return Err(CliError::Usage(format!(
                "--reference-data: loss {} has no term for it; --loss max_po with --eta above 0 has one",
                name()
            )));
        }
        (true, _) | (false, true) => {}
    }
    loaded::check_reference(args.reference.as_ref(), &args.cache, objective)?;
    data::check_rejects(&args.data)?;
    loaded::check_temperature(&args.logp, objective)
}

/// Whether the run has rows. `estimate` also works without rows.
pub(crate) fn has_rows(args: &TrainArgs) -> bool {
    args.model.demo || !args.data.data.is_empty()
}

/// Whether the run uses the demo and the demo has held-out rows for the objective. The rows are pairs; losses of labelled answers
/// split them.
pub(crate) fn demo_evaluates(args: &TrainArgs, objective: &Objective) -> bool {
    args.model.demo && matches!(objective.data(), RowKind::Pair | RowKind::Labelled | RowKind::Sequence)
}

/// Returns how a run trains. `lora_dropout` is that of a fresh adapter: the caller replaces it by the dropout of the run's
/// adapter.
///
/// # Errors
/// [`CliError::Usage`] if a number is out of its range.
pub(crate) fn options(args: &TrainArgs) -> Result<TrainOptions, CliError> {
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
        max_steps: args.max_steps.and_then(|most| most.0),
        max_completions: args.max_completions.map(|most| most as usize),
        batch_size: (args.batch_size.unwrap_or(8) * args.gradient_accumulation_steps) as usize,
        micro_batch_tokens: args.pack.micro_batch_tokens as usize,
        max_length: loaded::max_length(&args.data) as usize,
        lora_dropout: in_range("lora-dropout", args.lora_dropout.unwrap_or(0.0), 0.0, 0.99)? as f32,
        seed: args.seed,
        shuffle: if args.no_shuffle { Shuffle::Off } else { Shuffle::Seeded(args.seed) },
        eval_steps: args.eval_steps,
        precision: args.device.precision().into(),
        logp_temperature: args.logp.temperature(),
        memory: args.memory.map(|Size(bytes)| bytes),
    })
}
