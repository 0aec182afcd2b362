//! `config.toml`: every option as it was resolved, as `--config` reads it.

use crate::args::{CacheChoice, DataCacheChoice, ReferenceChoice, TrainArgs};
use crate::error::CliError;
use align_engine::new_file::{NewFile, NewFileError};
use align_lora::adapter::LoraConfig;
use align_lora::objective::{KnobKind, KnobValue};
use align_lora::train::Trainer;
use std::path::{Path, PathBuf};

/// The files that the flags name, patterns resolved: a later run reads the same ones.
pub struct NamedFiles<'a> {
    pub data: &'a [PathBuf],
    pub eval: &'a [PathBuf],
    pub texts: &'a [PathBuf],
}

/// Writes everything as it was resolved to `config.toml` in the directory `output`.
///
/// # Errors
/// [`CliError`].
pub fn write(
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
