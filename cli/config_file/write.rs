//! Writes `config.toml`: every option with its resolved value, in the form that `--config` reads.

use super::read::OWN_TEMPLATE;
use crate::args::{CacheChoice, DataCacheChoice, ReferenceChoice, TrainArgs};
use crate::error::CliError;
use crate::run_files::OPTIONS;
use align_engine::new_file::NewFile;
use align_lora::adapter::LoraConfig;
use align_lora::objective::{KnobKind, KnobValue, Objective};
use align_lora::optim::{AdamNumbers, OptimizerKind, Warmup};
use align_lora::train::{TrainOptions, Trainer};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The files that the flags name, with patterns resolved, so that a later run reads the same files.
pub(crate) struct NamedFiles {
    pub data: Vec<PathBuf>,
    pub eval: Vec<PathBuf>,
    pub texts: Vec<PathBuf>,
}

/// Returns every option with its resolved value.
///
/// # Errors
/// [`CliError::Usage`] for a path that is not UTF-8, which a TOML file cannot name.
pub(crate) fn resolved(
    args: &TrainArgs,
    named: &NamedFiles,
    adapter: &LoraConfig,
    trainer: &Trainer<'_>,
) -> Result<Table, CliError> {
    let mut options = Options(Table::new());
    options.of_model(args, adapter)?;
    options.of_files(args, named)?;
    options.of_rows(args)?;
    options.of_loss(trainer.objective());
    options.of_optimiser(args, adapter, trainer.options());
    options.of_run(args, trainer.options())?;
    Ok(options.0)
}

/// Options by the names of their flags.
struct Options(Table);

impl Options {
    /// Sets an option. Leaves it out if the value is `None`.
    fn put(&mut self, key: &str, value: impl Into<Option<Value>>) {
        if let Some(value) = value.into() {
            self.0.insert(key.to_owned(), value);
        }
    }

    fn of_model(&mut self, args: &TrainArgs, adapter: &LoraConfig) -> Result<(), CliError> {
        match &args.model.model {
            Some(name) if Path::new(name).is_dir() => self.put("model", absolute(Path::new(name))?),
            Some(name) => self.put("model", Value::from(name.clone())),
            None => self.put("demo", Value::from(true)),
        }
        if let Some(dir) = &args.model.adapter {
            self.put("adapter", absolute(dir)?);
        } else {
            let targets =
                if args.target_modules.is_empty() { "all-linear".to_owned() } else { args.target_modules.join(",") };
            self.put("lora-rank", integer(adapter.rank as u64));
            self.put("lora-alpha", Value::from(adapter.alpha));
            self.put("target-modules", Value::from(targets));
            self.put("rslora", Value::from(adapter.use_rslora));
        }
        match &args.reference {
            Some(ReferenceChoice::Base) => self.put("reference", Value::from("base")),
            Some(ReferenceChoice::Adapter(dir)) => self.put("reference", absolute(dir)?),
            None => {}
        }
        // writes the digits that the user typed, not those of the nearest f32
        let temperature = args.logp.logp_temperature.and_then(|typed| typed.to_string().parse::<f64>().ok());
        self.put("logp-temperature", temperature.map(Value::from));
        // names the run's own copy, since the file that the flag named may change
        self.put("chat-template", args.model.chat_template.as_ref().map(|_| Value::from(OWN_TEMPLATE)));
        Ok(())
    }

    fn of_files(&mut self, args: &TrainArgs, named: &NamedFiles) -> Result<(), CliError> {
        for (key, paths) in [("data", &named.data), ("eval-data", &named.eval), ("reference-data", &named.texts)] {
            if !paths.is_empty() {
                let paths = paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
                self.put(key, Value::from(paths));
            }
        }
        self.put("eval-fraction", args.eval_fraction.map(Value::from));
        self.put("rejects", args.data.keep.rejects.as_deref().map(absolute).transpose()?);
        match &args.data.keep.data_cache {
            Some(DataCacheChoice::Folder(folder)) => self.put("data-cache", absolute(folder)?),
            Some(DataCacheChoice::Off) => self.put("data-cache", Value::from("off")),
            None => {}
        }
        Ok(())
    }

    /// Adds the options that decide how rows are read. Adds them even if they are off or empty. If the file lacked them, a later
    /// run from this file that starts from the same adapter would take their values from that adapter's run.
    fn of_rows(&mut self, args: &TrainArgs) -> Result<(), CliError> {
        let reading = args.data.reading()?;
        self.put("columns", Value::from(reading.columns.to_string()));
        self.put("chat", Value::from(args.data.reading.chat));
        self.put("system", Value::from(reading.system.unwrap_or_default()));
        self.put("pairs", args.data.pairs.map(word));
        self.put("implicit-prompt", Value::from(args.data.reading.implicit_prompt));
        self.put("allow-drops", Value::from(args.drops.allow_drops));
        self.put("sft-on", args.data.sft_on.map(word));
        Ok(())
    }

    fn of_loss(&mut self, objective: &Objective) {
        self.put("loss", Value::from(objective.asked_name()));
        for (knob, value) in objective.knobs() {
            let value: Value = match (value, knob.kind) {
                (KnobValue::Number(number), _) => number.into(),
                (KnobValue::Switch(on), KnobKind::Switch { default }) => (on != default).into(),
                (KnobValue::Switch(on), _) => on.into(),
                (KnobValue::Choice(word), _) => word.into(),
            };
            self.put(knob.flag, value);
        }
    }

    fn of_optimiser(&mut self, args: &TrainArgs, adapter: &LoraConfig, options: &TrainOptions) {
        self.put("lora-dropout", Value::from(adapter.dropout));
        self.put("learning-rate", Value::from(options.learning_rate));
        self.put("schedule", word(args.optimiser.schedule));
        match options.warmup {
            Warmup::Steps(steps) => self.put("warmup-steps", integer(steps)),
            Warmup::Ratio(ratio) => self.put("warmup-ratio", Value::from(ratio)),
        }
        self.put("optim", word(args.optimiser.optim));
        match options.optimizer {
            OptimizerKind::AdamW(AdamNumbers { beta1, beta2, eps }) => {
                self.put("adam-beta1", Value::from(beta1));
                self.put("adam-beta2", Value::from(beta2));
                self.put("adam-epsilon", Value::from(eps));
            }
            OptimizerKind::RmsProp { alpha } => self.put("rmsprop-alpha", Value::from(alpha)),
        }
        self.put("weight-decay", Value::from(options.weight_decay));
        self.put("max-grad-norm", Value::from(options.max_grad_norm));
    }

    fn of_run(&mut self, args: &TrainArgs, options: &TrainOptions) -> Result<(), CliError> {
        self.put("epochs", integer(options.epochs));
        self.put("max-steps", options.max_steps.map(integer));
        self.put("max-completions", options.max_completions.map(|most| integer(most as u64)));
        self.put("logging-steps", integer(args.logging_steps));
        self.put("eval-steps", options.eval_steps.map(integer));
        self.put("batch-size", integer(options.batch_size as u64));
        self.put("micro-batch-tokens", integer(options.micro_batch_tokens as u64));
        self.put("memory", options.memory.map(integer));
        self.put("max-length", integer(options.max_length as u64));
        self.put("on-bad-row", word(args.data.on_bad_row));
        self.put("seed", integer(options.seed));
        self.put("no-shuffle", Value::from(args.no_shuffle));
        self.put("unpaired-order", word(args.unpaired_order));
        self.put("precision", word(args.device.precision()));
        match &args.cache.reference_cache {
            Some(CacheChoice::Off) => self.put("reference-cache", Value::from("off")),
            Some(CacheChoice::Memory) => self.put("reference-cache", Value::from("memory")),
            Some(CacheChoice::Folder(folder)) => self.put("reference-cache", absolute(folder)?),
            None => {}
        }
        Ok(())
    }
}

/// Writes `config.toml` in the directory `output`.
///
/// # Errors
/// [`CliError::Runtime`] if the file cannot be written. Its message names the path.
pub(crate) fn write(resolved: &Table, output: &Path) -> Result<(), CliError> {
    let path = output.join(OPTIONS);
    let written = NewFile::whole(&path, resolved.to_string().as_bytes());
    written.map_err(|error| CliError::file(&path, &error.source))
}

fn absolute(path: &Path) -> Result<Value, CliError> {
    let whole = std::path::absolute(path).unwrap_or(path.to_owned());
    match whole.to_str() {
        Some(text) => Ok(text.into()),
        None => Err(CliError::Usage(format!(
            "{}: the path is not UTF-8, and config.toml cannot name it; rename it",
            whole.display()
        ))),
    }
}

/// Returns an integer as a TOML value. TOML has no integers of 2^63 or more, so such a number becomes a string, which `--config`
/// reads the same way.
fn integer(number: u64) -> Value {
    i64::try_from(number).map_or_else(|_| number.to_string().into(), Value::Integer)
}

/// Returns a choice as a user would type it.
fn word(choice: impl ValueEnum) -> Value {
    choice.to_possible_value().expect("no choice is skipped").get_name().to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{OnBadRowChoice, PrecisionChoice};

    #[test]
    fn numbers_and_words_are_what_the_flags_read() {
        assert_eq!(integer(7), Value::Integer(7));
        assert_eq!(integer(u64::MAX), Value::String(u64::MAX.to_string()));
        assert_eq!(word(OnBadRowChoice::Skip), "skip".into());
        assert_eq!(word(PrecisionChoice::Bf16), "bf16".into());
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/data/\xFF.jsonl"));
        assert!(matches!(absolute(path), Err(CliError::Usage(text)) if text.contains("not UTF-8")));
    }
}
