//! `estimate`: the memory and time that a run would need, before it starts. It needs only config.json.

use super::train::{adapters, data, options, summary, trainer};
use super::{print, print_json};
use crate::args::{DeviceChoice, EstimateArgs, TrainArgs};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::report::{self, PlannedTime, say};
use adapters::RunReference;
use align_kernels::Device;
use align_kernels::device::WeightDtype;
use align_lora::objective::{KnobValue, Objective};
use align_lora::train::{Plan, RunPace, Size, TrainOptions, Trainer};
use data::RunData;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Largest number of tokens of a step that is planned without data.
const MOST_TOKENS: u64 = 1 << 28;

pub(super) fn run(args: &EstimateArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let run = &args.run;
    let objective = Objective::new(&run.loss, knobs)?;
    let _ = run.data.reading()?; // reports mistakes in the flags before the model is loaded
    let options = options::options(run)?;
    options::check(run, &objective)?;
    check_without_rows(run, &options)?;
    if let DeviceChoice::Cuda(_) = run.device.device {
        return Err(CliError::Usage(
            "--device cuda: estimate plans for the processor only; leave the flag out".to_owned(),
        ));
    }
    let device = loaded::device(&run.device)?;
    device.clone().install(|| estimate(args, objective, options, &device))
}

/// If there is no data, refuses flags about rows, and steps of more than [`MOST_TOKENS`] tokens.
fn check_without_rows(run: &TrainArgs, options: &TrainOptions) -> Result<(), CliError> {
    if options::has_rows(run) {
        return Ok(());
    }
    let about_rows = [
        (!run.eval_data.is_empty(), "--eval-data"),
        (run.eval_fraction.is_some(), "--eval-fraction"),
        (!run.reference_data.is_empty(), "--reference-data"),
        (run.model.chat_template.is_some(), "--chat-template"),
        (run.data.keep.rejects.is_some(), "--rejects"),
    ];
    if let Some((_, flag)) = about_rows.into_iter().find(|(is_given, _)| *is_given) {
        return Err(CliError::Usage(format!("{flag} is about rows, and there are none: give --data, or leave it out")));
    }
    let answers = options.max_completions.unwrap_or(2) as u64;
    let tokens = (options.max_length as u64).saturating_mul(options.batch_size as u64).saturating_mul(answers);
    if tokens > MOST_TOKENS {
        return Err(CliError::Usage(format!(
            "a step of {} rows of {answers} answers of {} tokens is more than {MOST_TOKENS} tokens: lower --max-length, \
             --batch-size or --max-completions",
            options.batch_size, options.max_length
        )));
    }
    Ok(())
}

fn estimate(args: &EstimateArgs, objective: Objective, options: TrainOptions, device: &Device) -> Result<(), CliError> {
    let run = &args.run;
    let loaded = loaded::planned_model(&run.model, device)?;
    let adapter = adapters::policy(run, &loaded, &objective, options.seed)?;
    let options = TrainOptions { lora_dropout: adapter.config().dropout as f32, ..options };
    let reference = RunReference::new(run, &loaded, &objective, &adapter)?;
    let data = options::has_rows(run).then(|| RunData::open(run, &loaded, &objective)).transpose()?;
    summary::summary(run, &loaded, &adapter, &objective);
    summary::details(run, &loaded, &adapter, &options, device);
    match &data {
        Some(data) => data.report(run)?,
        None => say!("data: none; planned for answers that fill --max-length, {}", options.max_length),
    }
    let mut trainer = trainer(run, &loaded, &adapter, &reference, objective, options)?;
    let plan = match data {
        Some(RunData { train, eval, texts, .. }) => {
            if let Some(texts) = texts {
                trainer = trainer.with_reference_data(texts);
            }
            trainer.estimate(&train, eval.as_ref())?
        }
        None => trainer.estimate_longest()?,
    };
    let estimate = Estimate::new(args, &loaded, &trainer, plan)?;
    match args.json {
        true => print_json(&estimate.json()),
        false => print(estimate.table().as_bytes()),
    }
}

/// What a run would need.
struct Estimate {
    /// The number format of the base.
    base: WeightDtype,
    mapped_bytes: u64,
    micro_batch_tokens: usize,
    batch_size: usize,
    plan: Plan,
    pace: RunPace,
    /// Whether the steps come from a data set.
    has_rows: bool,
    /// Whether the speed of the machine is known. If it is not, the seconds in `pace` have no meaning.
    is_timed: bool,
}

impl Estimate {
    fn new(args: &EstimateArgs, loaded: &LoadedModel, trainer: &Trainer<'_>, plan: Plan) -> Result<Estimate, CliError> {
        let (pace, is_timed) = match (args.gflops, &loaded.files) {
            (Some(gflops), _) => (trainer.pace_of(&plan, gflops * 1e9)?, true),
            // the speed is measured only for a plan that fits: this machine may be too small for the largest pass of another plan
            (None, Some(_)) if plan.fits => (trainer.pace(&plan)?, true),
            // any speed will do: only the operations are read, which do not depend on it
            (None, _) => (trainer.pace_of(&plan, 1.0)?, false),
        };
        Ok(Estimate {
            base: loaded.model.weight_dtype(),
            mapped_bytes: loaded.model.weight_bytes(),
            micro_batch_tokens: trainer.options().micro_batch_tokens,
            batch_size: trainer.options().batch_size,
            plan,
            pace,
            has_rows: options::has_rows(&args.run),
            is_timed,
        })
    }

    fn json(&self) -> Value {
        let Plan { limit, peak, fits, ref parts, layers, layers_kept, .. } = self.plan;
        let parts: Map<String, Value> = parts.iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect();
        json!({
            "base": self.base.to_string(),
            "fits": fits,
            "peak_bytes": peak,
            "limit_bytes": limit,
            "mapped_bytes": self.mapped_bytes,
            "parts": parts,
            "layers": layers,
            "layers_kept": layers_kept,
            "micro_batch_tokens": self.micro_batch_tokens,
            "largest_pass_tokens": self.plan.rows(),
            "operations": self.pace.first.operations,
            "seconds_per_step": self.is_timed.then_some(self.pace.first.seconds_per_step),
            "steps": self.has_rows.then_some(self.pace.steps),
        })
    }

    fn table(&self) -> String {
        let Plan { limit, limit_needed, peak, fits, ref parts, layers, layers_kept, .. } = self.plan;
        let [needed, limit] = [Size(limit_needed).rounded(f64::ceil), Size(limit).rounded(f64::floor)];
        let fit = if fits { "; fits into" } else { &format!(", {needed} with a reserve; does not fit into") };
        let mut table = format!("memory   {}{fit} the {limit} that the run may take\n", Size(peak));
        for (name, bytes) in parts {
            let _ = writeln!(table, "           {:>10}  {name}", Size(*bytes).to_string());
        }
        let recomputed = if layers_kept < layers { "; the others are recomputed" } else { "" };
        let reference = if self.plan.reference_rows() > 0 { ", those of the reference among them" } else { "" };
        let _ = write!(
            table,
            "mapped   {} of weights ({}), on top\n\
             layers   {layers_kept} of {layers} kept in the largest forward pass{recomputed}\n\
             tokens   {} in that pass{reference}\n",
            Size(self.mapped_bytes),
            self.base,
            self.plan.rows(),
        );
        let _ = match self.is_timed {
            true => writeln!(table, "time     {}", report::step_time(&self.pace)),
            false => writeln!(table, "work     {} a step", report::step_operations(&self.pace)),
        };
        if self.has_rows {
            let time = if self.is_timed { format!(", {}", PlannedTime::of(&self.pace)) } else { String::new() };
            let _ = writeln!(table, "steps    {} of {} rows{time}", self.pace.steps, self.batch_size);
        }
        if !fits {
            let _ = writeln!(
                table,
                "advice   --memory of at least {needed}, or a smaller --micro-batch-tokens ({} now), --max-length or --lora-rank",
                self.micro_batch_tokens
            );
        }
        table
    }
}
