//! From flags to a loaded model and its adapters.

use crate::args::{DataArgs, DeviceArgs, DeviceChoice, LogpArgs, ModelArgs, ReferenceChoice};
use crate::demo::{self, DemoPaths};
use crate::error::CliError;
use align_engine::model::adapters::AdapterSet;
use align_engine::model::{Model, ModelConfig, locate};
use align_engine::weights::{Checkpoint, ValueCheck};
use align_kernels::Device;
use align_lora::adapter::{Adapter, LoraConfig};
use align_lora::data::{Encoder, LongAnswers};
use align_lora::objective::{Objective, Scores};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the demo's model is called.
pub const DEMO: &str = "the demo inside this program";
/// `--max-length`, unless something says otherwise.
pub const MAX_LENGTH: u64 = 1024;

/// The `config.toml` of the run that made an adapter; empty for an adapter that has none.
///
/// # Errors
/// [`CliError::Input`] for a file that cannot be read, whose `max-length` is no number of tokens, or that belongs to another
/// adapter: its rank or alpha is not that of `adapter_config.json`.
pub fn run_config(adapter: Option<&Path>) -> Result<toml::Table, CliError> {
    let Some(dir) = adapter else { return Ok(toml::Table::new()) };
    let path = dir.join("config.toml");
    let fail = |what: String| CliError::Input(format!("{}: {what}", path.display()));
    let table: toml::Table = match std::fs::read_to_string(&path) {
        Ok(text) => text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(toml::Table::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    let config = LoraConfig::read(&dir.join("adapter_config.json"))?;
    let number = |key: &str| table.get(key).and_then(|value| value.as_float().or(value.as_integer().map(|n| n as f64)));
    for (key, adapter) in [("lora-rank", config.rank as f64), ("lora-alpha", config.alpha)] {
        if let Some(run) = number(key).filter(|run| *run != adapter) {
            return Err(fail(format!(
                "`{key}` is {run}, but adapter_config.json beside it says {adapter}: the files are of different runs"
            )));
        }
    }
    if let Err(found) = max_length_of(&table) {
        return Err(fail(format!("`max-length` is {found}, expected a whole number of tokens from 1")));
    }
    Ok(table)
}

/// `--max-length` of the command line, else that of the run ([`run_config`] has checked it), else the default.
pub fn max_length(args: &DataArgs, run: &toml::Table) -> u64 {
    args.max_length.or_else(|| max_length_of(run).ok()?).unwrap_or(MAX_LENGTH)
}

/// That of a run, if it has one; what it is instead of a number of tokens.
fn max_length_of(run: &toml::Table) -> Result<Option<u64>, &toml::Value> {
    let Some(value) = run.get("max-length") else { return Ok(None) };
    let tokens = value.as_integer().and_then(|tokens| u32::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
    tokens.map(|tokens| Some(u64::from(tokens))).ok_or(value)
}

/// `--logp-temperature` of the command line, else that of the run, else 1.
///
/// # Errors
/// [`CliError::Input`] if the run's is no number above 0.
pub fn logp_temperature(args: &LogpArgs, run: &toml::Table) -> Result<f32, CliError> {
    let of_run = run.get("logp-temperature").map(|value| {
        let number = value.as_float().or(value.as_integer().map(|n| n as f64));
        number.map(|number| number as f32).filter(|number| *number > 0.0).ok_or_else(|| {
            CliError::Input(format!(
                "config.toml of the adapter's run: logp-temperature = {value} is no number above 0"
            ))
        })
    });
    match (args.logp_temperature, of_run) {
        (Some(given), _) => Ok(given),
        (None, Some(of_run)) => of_run,
        (None, None) => Ok(1.0),
    }
}

/// # Errors
/// [`CliError::Usage`] for `--logp-temperature` with a reward model's loss.
pub fn check_temperature(args: &LogpArgs, objective: &Objective) -> Result<(), CliError> {
    match (args.logp_temperature, objective.scores()) {
        (Some(_), Scores::Reward) => {
            let name = objective.name();
            Err(CliError::Usage(format!("--logp-temperature: loss {name} reads no log-probs; leave the flag out")))
        }
        _ => Ok(()),
    }
}

/// The demo on disk, for as long as a command runs.
pub struct Demo {
    _folder: tempfile::TempDir,
    pub paths: DemoPaths,
}

impl Demo {
    /// Writes the demo into a temporary directory.
    ///
    /// # Errors
    /// [`CliError::Runtime`] if it cannot be written.
    pub fn new() -> Result<Demo, CliError> {
        let folder = tempfile::Builder::new().prefix("align-demo-").tempdir()?;
        let paths = demo::materialise(folder.path())?;
        Ok(Demo { _folder: folder, paths })
    }
}

/// The device that the flags name.
///
/// # Errors
/// [`CliError::Runtime`] for CUDA, which this version cannot use.
pub fn device(args: &DeviceArgs) -> Result<Device, CliError> {
    match args.device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::cpu(args.threads.map(|threads| threads as usize))?),
        DeviceChoice::Cuda => Err(CliError::Runtime(
            "--device cuda: this version computes on the processor only; leave the flag out, or give --device cpu"
                .into(),
        )),
    }
}

/// A model with the facts that are printed about it.
pub struct LoadedModel {
    pub model: Model,
    pub dir: PathBuf,
    /// How the user's word was resolved.
    pub found: String,
    /// What an adapter's config names as its base.
    pub base_name: String,
    /// Tensors of the checkpoint that the model does not use.
    pub unused: Vec<String>,
    /// Matrices of zeros, which are rarely meant.
    pub all_zero: Vec<String>,
    /// The files of its weights.
    pub checkpoint: Checkpoint,
    /// Kept so that the demo's files outlive the mapping.
    pub demo: Option<Demo>,
}

/// Loads the model that `args` name.
///
/// # Errors
/// [`CliError`].
pub fn model(args: &ModelArgs, device: &Device) -> Result<LoadedModel, CliError> {
    let demo = args.demo.then(Demo::new).transpose()?;
    let (dir, found, base_name) = match (&args.model, &demo) {
        (Some(name), _) => {
            let located = locate(name)?;
            let base_name = match located.origin {
                align_engine::model::Origin::Directory => std::path::absolute(name)?.to_string_lossy().into_owned(),
                align_engine::model::Origin::Cache { .. } => name.clone(),
            };
            (located.path.clone(), located.to_string(), base_name)
        }
        (None, Some(demo)) => (demo.paths.model.clone(), DEMO.into(), "align-demo".into()),
        (None, None) => return Err(CliError::Usage("--model is missing: a directory, or --demo".into())),
    };
    let config = ModelConfig::open(&dir)?;
    let checkpoint = Checkpoint::open(&dir, ValueCheck::Finite)?;
    let model = Model::load(device, config, &checkpoint)?;
    let unused = checkpoint.unused().into_iter().map(|tensor| tensor.name.clone()).collect();
    let all_zero = checkpoint.all_zero();
    Ok(LoadedModel { model, dir, found, base_name, unused, all_zero, checkpoint, demo })
}

impl LoadedModel {
    /// What turns the rows of `data` into tokens.
    ///
    /// # Errors
    /// [`CliError::Input`]; [`CliError::Usage`] for `--columns`.
    pub fn data_encoder(
        &self,
        chat_template: Option<&Path>,
        max_length: u64,
        data: &DataArgs,
    ) -> Result<Encoder, CliError> {
        let encoder = self.encoder(chat_template, max_length)?;
        Ok(encoder.with_reading(data.reading.reading()?).with_sft_on(data.sft.part()))
    }

    /// Tokenizer and chat template, for rows of at most `max_length` tokens.
    ///
    /// # Errors
    /// [`CliError::Input`].
    pub fn encoder(&self, chat_template: Option<&Path>, max_length: u64) -> Result<Encoder, CliError> {
        let rows = self.model.config().vocab_size;
        Ok(Encoder::from_model(&self.dir, chat_template, max_length as usize, rows)?)
    }

    /// The same for what an objective reads: a reward model's rows are dropped where an answer would be cut.
    ///
    /// # Errors
    /// [`CliError::Input`].
    pub fn encoder_of(
        &self,
        objective: &Objective,
        chat_template: Option<&Path>,
        max_length: u64,
        data: &DataArgs,
    ) -> Result<Encoder, CliError> {
        let long_answers = match objective.scores() {
            Scores::LogProbs => LongAnswers::Cut,
            Scores::Reward => LongAnswers::Dropped,
        };
        Ok(self.data_encoder(chat_template, max_length, data)?.with_long_answers(long_answers))
    }

    /// The adapter of a directory, for an objective: that of a reward model for the losses of one.
    ///
    /// # Errors
    /// [`CliError::Input`].
    pub fn adapter_of(&self, objective: &Objective, dir: &Path) -> Result<Adapter, CliError> {
        match objective.scores() {
            Scores::LogProbs => self.adapter(dir),
            Scores::Reward => Ok(Adapter::load_reward_model(&self.model, dir)?),
        }
    }

    /// The adapter of a directory, which has no score head.
    ///
    /// # Errors
    /// [`CliError::Input`].
    pub fn adapter(&self, dir: &Path) -> Result<Adapter, CliError> {
        Ok(Adapter::load(&self.model, dir)?)
    }

    /// What answers are compared with.
    ///
    /// # Errors
    /// [`CliError::Input`].
    pub fn reference(&self, choice: &ReferenceChoice) -> Result<Option<Arc<AdapterSet>>, CliError> {
        match choice {
            ReferenceChoice::Base => Ok(None),
            ReferenceChoice::Adapter(dir) => Ok(Some(self.adapter(dir)?.set().clone())),
        }
    }

    /// The files of `--data`, or those of the demo.
    ///
    /// # Errors
    /// As [`data::data_files`](crate::data::data_files).
    pub fn data_files(
        &self,
        args: &DataArgs,
        of_demo: impl Fn(&DemoPaths) -> PathBuf,
    ) -> Result<Vec<PathBuf>, CliError> {
        match (&self.demo, args.data.is_empty()) {
            (Some(demo), true) => Ok(vec![of_demo(&demo.paths)]),
            _ => crate::data::data_files(&args.data),
        }
    }
}
