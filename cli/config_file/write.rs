//! `config.toml`: every option as it was resolved, as `--config` reads it.

use super::read::OWN_TEMPLATE;
use crate::args::{CacheChoice, DataCacheChoice, ReferenceChoice, TrainArgs};
use crate::error::CliError;
use crate::run_files::OPTIONS;
use align_engine::new_file::{NewFile, NewFileError};
use align_lora::adapter::LoraConfig;
use align_lora::objective::{KnobKind, KnobValue};
use align_lora::optim::{AdamNumbers, OptimizerKind, Warmup};
use align_lora::train::Trainer;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// The files that the flags name, patterns resolved: a later run reads the same ones.
pub struct NamedFiles<'a> {
    pub data: &'a [PathBuf],
    pub eval: &'a [PathBuf],
    pub texts: &'a [PathBuf],
}

/// Everything as it was resolved.
///
/// # Errors
/// [`CliError::Usage`] for a path that is not UTF-8, which a TOML file cannot name.
pub fn resolved(
    args: &TrainArgs,
    named: &NamedFiles<'_>,
    adapter: &LoraConfig,
    trainer: &Trainer<'_>,
) -> Result<toml::Table, CliError> {
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: toml::Value| table.insert(key.to_owned(), value);
    let files = |paths: &[PathBuf]| paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>();
    let options = trainer.options();
    match &args.model.model {
        Some(name) if Path::new(name).is_dir() => put("model", absolute(Path::new(name))?),
        Some(name) => put("model", name.clone().into()),
        None => put("demo", true.into()),
    };
    if let Some(dir) = &args.model.adapter {
        put("adapter", absolute(dir)?);
    } else {
        put("lora-rank", integer(adapter.rank as u64));
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
            put("reference", absolute(dir)?);
        }
        None => {}
    }
    if let Some(temperature) = args.logp.logp_temperature {
        // the digits that were typed, not those of the nearest f32
        put("logp-temperature", temperature.to_string().parse::<f64>().unwrap_or(1.0).into());
    }
    if args.model.chat_template.is_some() {
        // the run's own copy, since the file that the flag named may change
        put("chat-template", OWN_TEMPLATE.into());
    }
    if !named.data.is_empty() {
        put("data", files(named.data)?.into());
    }
    if !named.eval.is_empty() {
        put("eval-data", files(named.eval)?.into());
    }
    if !named.texts.is_empty() {
        put("reference-data", files(named.texts)?.into());
    }
    if let Some(fraction) = args.eval_fraction {
        put("eval-fraction", fraction.into());
    }
    if let Some(path) = &args.data.keep.rejects {
        put("rejects", absolute(path)?);
    }
    match &args.data.keep.data_cache {
        Some(DataCacheChoice::Folder(folder)) => {
            put("data-cache", absolute(folder)?);
        }
        Some(DataCacheChoice::Off) => {
            put("data-cache", "off".into());
        }
        None => {}
    }
    let reading = args.data.reading()?;
    // also write what is off: if the run started from an adapter, the adapter's options would turn it on again
    put("columns", reading.columns.to_string().into());
    put("chat", args.data.reading.chat.into());
    put("system", reading.system.unwrap_or_default().into());
    if let Some(pairs) = args.data.pairs {
        put("pairs", word(pairs));
    }
    put("implicit-prompt", args.data.reading.implicit_prompt.into());
    put("allow-drops", args.drops.allow_drops.into());
    if let Some(part) = args.data.sft.sft_on {
        put("sft-on", word(part));
    }
    put("loss", trainer.objective().asked_name().into());
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
    put("schedule", word(args.optimiser.schedule));
    match options.warmup {
        Warmup::Steps(steps) => put("warmup-steps", integer(steps)),
        Warmup::Ratio(ratio) => put("warmup-ratio", ratio.into()),
    };
    put("optim", word(args.optimiser.optim));
    match options.optimizer {
        OptimizerKind::AdamW(AdamNumbers { beta1, beta2, eps }) => {
            put("adam-beta1", beta1.into());
            put("adam-beta2", beta2.into());
            put("adam-epsilon", eps.into());
        }
        OptimizerKind::RmsProp { alpha } => {
            put("rmsprop-alpha", alpha.into());
        }
    }
    put("weight-decay", options.weight_decay.into());
    put("max-grad-norm", options.max_grad_norm.into());
    put("epochs", integer(options.epochs));
    if let Some(steps) = options.max_steps {
        put("max-steps", integer(steps));
    }
    if let Some(most) = options.max_completions {
        put("max-completions", integer(most as u64));
    }
    put("logging-steps", integer(args.logging_steps));
    if let Some(steps) = options.eval_steps {
        put("eval-steps", integer(steps));
    }
    put("batch-size", integer(options.batch_size as u64));
    put("micro-batch-tokens", integer(options.micro_batch_tokens as u64));
    if let Some(bytes) = options.memory {
        put("memory", integer(bytes));
    }
    put("max-length", integer(options.max_length as u64));
    put("on-bad-row", word(args.data.on_bad_row));
    put("seed", integer(options.seed));
    put("no-shuffle", args.no_shuffle.into());
    put("unpaired-order", word(args.unpaired_order));
    put("precision", word(args.device.precision));
    match &args.cache.reference_cache {
        Some(CacheChoice::Off) => put("reference-cache", "off".into()),
        Some(CacheChoice::Memory) => put("reference-cache", "memory".into()),
        Some(CacheChoice::Folder(folder)) => put("reference-cache", absolute(folder)?),
        None => None,
    };
    Ok(table)
}

/// Writes `config.toml` in the directory `output`.
///
/// # Errors
/// [`CliError::Runtime`] with the path.
pub fn write(resolved: &toml::Table, output: &Path) -> Result<(), CliError> {
    let path = output.join(OPTIONS);
    let failed = |error: NewFileError| CliError::file(&path, &error.source);
    let mut file = NewFile::create(&path).map_err(failed)?;
    file.write(resolved.to_string().as_bytes()).map_err(failed)?;
    file.finish().map_err(failed)
}

fn absolute(path: &Path) -> Result<toml::Value, CliError> {
    let whole = std::path::absolute(path).unwrap_or(path.to_owned());
    match whole.to_str() {
        Some(text) => Ok(text.into()),
        None => Err(CliError::Usage(format!(
            "{}: the path is not UTF-8, and config.toml cannot name it; rename it",
            whole.display()
        ))),
    }
}

/// A number above 2^63 is no integer of TOML, and text is read the same.
fn integer(number: u64) -> toml::Value {
    i64::try_from(number).map_or_else(|_| number.to_string().into(), toml::Value::Integer)
}

/// A choice as it is typed.
fn word(choice: impl ValueEnum) -> toml::Value {
    choice.to_possible_value().expect("no choice is skipped").get_name().to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{OnBadRowChoice, PrecisionChoice};

    #[test]
    fn numbers_and_words_are_what_the_flags_read() {
        assert_eq!(integer(7), toml::Value::Integer(7));
        assert_eq!(integer(u64::MAX), toml::Value::String(u64::MAX.to_string()));
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
