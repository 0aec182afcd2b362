//! Loads the model that the flags name, and its adapters.

use crate::args::{
    CacheArgs, DataArgs, DeviceArgs, DeviceChoice, LogpArgs, ModelArgs, PrecisionChoice, ReferenceChoice,
};
use crate::chat_template;
use crate::demo::{self, DemoPaths};
use crate::error::CliError;
use crate::report::{self, say};
use align_data::{Encoder, LongAnswers};
use align_engine::model::{Layout, Model, ModelConfig, ModelNote, Origin, UnusedTensors, locate};
use align_engine::weights::{LoadError, ValueCheck, WeightFiles};
use align_kernels::Device;
use align_lora::adapter::{Adapter, Hash, Task, base_hash};
use align_lora::objective::{Objective, Scores};
use std::path::{Path, PathBuf};

/// The name of the demo's model in messages.
const DEMO: &str = "the demo inside this program";
/// The name of the base in the adapters of the demo.
pub(crate) const DEMO_BASE: &str = "align-demo";
/// The default of `--max-length`.
pub(crate) const MAX_LENGTH: u64 = 1024;

/// Returns `--max-length` from the command line or the adapter's run, or else the default.
pub(crate) fn max_length(args: &DataArgs) -> u64 {
    args.max_length.unwrap_or(MAX_LENGTH)
}

/// Returns what happens to answers beyond the length limit. A reward model scores only whole answers.
pub(crate) fn long_answers(objective: &Objective) -> LongAnswers {
    match objective.scores() {
        Scores::LogProbs => LongAnswers::Cut,
        Scores::Reward => LongAnswers::Dropped,
    }
}

/// Returns the task that an adapter must have for an objective.
pub(crate) fn task_of(objective: &Objective) -> Task {
    match objective.scores() {
        Scores::LogProbs => Task::CausalLm,
        Scores::Reward => Task::SequenceClassification,
    }
}

/// Refuses `--logp-temperature` if the objective reads no log-probs.
///
/// # Errors
/// [`CliError::Usage`] for `--logp-temperature` with a reward model's loss.
pub(crate) fn check_temperature(args: &LogpArgs, objective: &Objective) -> Result<(), CliError> {
    match (args.logp_temperature, objective.scores()) {
        (Some(_), Scores::Reward) => {
            let name = objective.name();
            Err(CliError::Usage(format!("--logp-temperature: loss {name} reads no log-probs; leave the flag out")))
        }
        _ => Ok(()),
    }
}

/// Refuses `--reference` if the objective reads no reference. Reports that `--reference-cache` is not used if it is given with
/// such an objective.
///
/// # Errors
/// [`CliError::Usage`] for `--reference` with an objective that reads no reference.
pub(crate) fn check_reference(
    reference: Option<&ReferenceChoice>,
    cache: &CacheArgs,
    objective: &Objective,
) -> Result<(), CliError> {
    if objective.reference() {
        return Ok(());
    }
    let name = objective.name();
    if reference.is_some() {
        return Err(CliError::Usage(format!("--reference: loss {name} reads no reference; leave the flag out")));
    }
    if cache.reference_cache.is_some() {
        say!("--reference-cache is not used: loss {name} reads no reference");
    }
    Ok(())
}

/// The files of the demo on disk. They are deleted when this value is dropped.
pub(crate) struct Demo {
    _folder: tempfile::TempDir,
    pub paths: DemoPaths,
}

impl Demo {
    /// Writes the demo into a temporary directory.
    ///
    /// # Errors
    /// [`CliError::Runtime`] if the files cannot be written.
    pub(crate) fn new() -> Result<Demo, CliError> {
        let folder = tempfile::Builder::new().prefix("align-demo-").tempdir()?;
        let paths = demo::materialise(folder.path())?;
        Ok(Demo { _folder: folder, paths })
    }
}

/// Returns the device that the flags name.
///
/// # Errors
/// [`CliError::Usage`] for bf16 on a GPU; [`CliError::Runtime`] for a GPU that cannot be used.
pub(crate) fn device(args: &DeviceArgs) -> Result<Device, CliError> {
    let threads = args.threads.map(|threads| threads as usize);
    match args.device {
        DeviceChoice::Auto => {
            if let Some(name) = Device::card() {
                say!("device: the processor; a GPU is there ({name}), and --device cuda uses it");
            }
            Ok(Device::cpu(threads)?)
        }
        DeviceChoice::Cpu => Ok(Device::cpu(threads)?),
        DeviceChoice::Cuda(_) if args.precision() == PrecisionChoice::Bf16 => Err(CliError::Usage(
            "--precision bf16: --device cuda computes in f32 so far; leave the flag out, or give --precision f32"
                .into(),
        )),
        DeviceChoice::Cuda(ordinal) => Ok(Device::cuda(ordinal, threads)?),
    }
}

/// A model with the facts that are printed about it.
pub(crate) struct LoadedModel {
    /// The model, on the device that computes. A model that is loaded without weights, only to plan a run, is on a counting
    /// device.
    pub model: Model,
    pub dir: PathBuf,
    /// Says how the model that the user named was found.
    pub found: String,
    /// The name of this base in the config of an adapter that is trained on it.
    pub base_name: String,
    /// Tensors in the weight files that the model does not use.
    pub unused: UnusedTensors,
    /// Names of the matrices that are all zeros, which is rarely intended.
    pub all_zero: Vec<String>,
    /// The files of the weights. `None` if they are missing and only config.json is known.
    pub files: Option<WeightFiles>,
    /// Kept so that the demo's files outlive the mapping.
    pub demo: Option<Demo>,
}

/// Loads the model that `args` name.
///
/// # Errors
/// [`CliError`] if the model is not found, cannot be read, or has weights that are not finite.
pub(crate) fn model(args: &ModelArgs, device: &Device) -> Result<LoadedModel, CliError> {
    load(args, device, |dir| Ok(Some(WeightFiles::open(dir, ValueCheck::Finite)?)))
}

/// Loads the model for a plan. Unlike [`model`], accepts a folder without weight files, and does not check the values of weights.
///
/// # Errors
/// [`CliError`] if the model is not found or cannot be read.
pub(crate) fn planned_model(args: &ModelArgs, device: &Device) -> Result<LoadedModel, CliError> {
    load(args, device, |dir| WeightFiles::are_in(dir).then(|| WeightFiles::open(dir, ValueCheck::Skip)).transpose())
}

/// The folder of a model. The fields mean the same as in [`LoadedModel`].
pub(crate) struct Found {
    pub dir: PathBuf,
    pub found: String,
    base_name: String,
    demo: Option<Demo>,
}

/// Finds the model that `--model` names, or the demo's model.
///
/// # Errors
/// [`CliError`] if no model is named, if it is not found, or if the demo's files cannot be written.
pub(crate) fn find(model: Option<&str>, demo: bool) -> Result<Found, CliError> {
    let demo = demo.then(Demo::new).transpose()?;
    let (dir, found, base_name) = match (model, &demo) {
        (Some(name), _) => {
            let located = locate(name)?;
            let base_name = match located.origin {
                Origin::Directory => std::path::absolute(name)?.to_string_lossy().into_owned(),
                Origin::Cache { .. } => name.to_owned(),
            };
            (located.path.clone(), located.to_string(), base_name)
        }
        (None, Some(demo)) => (demo.paths.model.clone(), DEMO.into(), DEMO_BASE.into()),
        (None, None) => return Err(CliError::Usage("--model is missing: a directory, or --demo".into())),
    };
    Ok(Found { dir, found, base_name, demo })
}

fn load(
    args: &ModelArgs,
    device: &Device,
    open: impl FnOnce(&Path) -> Result<Option<WeightFiles>, LoadError>,
) -> Result<LoadedModel, CliError> {
    let Found { dir, found, base_name, demo } = find(args.model.as_deref(), args.demo)?;
    report::stray_adapter(&dir, args.adapter.as_deref());
    let config = ModelConfig::open(&dir)?;
    let Some(files) = open(&dir)? else {
        if let Some(quantised) = &config.quantization {
            let (dir, key, method) = (dir.display(), quantised.key, &quantised.method);
            return Err(CliError::Input(format!(
                "{dir}: config.json has `{key}` ({method}): quantised weights are not read; give the model in bf16, f16 or f32"
            )));
        }
        if config.dtype.is_none() {
            say!("note: {}: config.json does not name the number format of the weights; taken for bf16", dir.display());
        }
        let model = Model::absent(&device.count(), config);
        let (unused, all_zero) = Default::default();
        return Ok(LoadedModel { model, dir, found, base_name, unused, all_zero, files: None, demo });
    };
    let model = Model::load(device, config, &files)?;
    report::model_notes(&ModelNote::of(model.config(), &files));
    let unused = Layout::of(model.config(), &files).unused(model.config(), &files);
    let all_zero = files.all_zero();
    Ok(LoadedModel { model, dir, found, base_name, unused, all_zero, files: Some(files), demo })
}

impl LoadedModel {
    /// Returns the path of the chat template to use instead of the model's own: see [`chat_template::instead_of_the_models`].
    ///
    /// # Errors
    /// The errors of [`chat_template::instead_of_the_models`].
    pub(crate) fn template(&self, args: &ModelArgs) -> Result<Option<PathBuf>, CliError> {
        chat_template::instead_of_the_models(args.chat_template.as_deref(), args.adapter.as_deref(), &self.dir)
    }

    /// Makes the encoder that turns the rows of `data` into tokens.
    ///
    /// # Errors
    /// [`CliError::Usage`] if `--columns` cannot be parsed. The errors of [`LoadedModel::encoder`].
    pub(crate) fn data_encoder(
        &self,
        chat_template: Option<&Path>,
        max_length: u64,
        data: &DataArgs,
    ) -> Result<Encoder, CliError> {
        let encoder = self.encoder(chat_template, max_length)?;
        Ok(encoder.with_reading(data.reading()?).with_sft_on(data.sft_on.map(Into::into)))
    }

    /// Makes an encoder from the tokenizer and the chat template, for rows of at most `max_length` tokens.
    ///
    /// # Errors
    /// [`CliError::Input`] if the tokenizer or the chat template cannot be read or used.
    pub(crate) fn encoder(&self, chat_template: Option<&Path>, max_length: u64) -> Result<Encoder, CliError> {
        let rows = self.model.config().vocab_size;
        Ok(Encoder::from_model(&self.dir, chat_template, max_length as usize, rows)?)
    }

    /// Reads the adapter in a directory. It must not have a score head.
    ///
    /// # Errors
    /// [`CliError::Input`] if the adapter cannot be read, does not fit the model or is a reward model.
    pub(crate) fn adapter(&self, dir: &Path) -> Result<Adapter, CliError> {
        self.adapter_for(dir, Some(Task::CausalLm))
    }

    /// Reads the adapter in a directory and reports on it. It must be for `task`; `None` allows both tasks.
    ///
    /// # Errors
    /// [`CliError::Input`] if the adapter cannot be read, does not fit the model or is for another task.
    pub(crate) fn adapter_for(&self, dir: &Path, task: Option<Task>) -> Result<Adapter, CliError> {
        let adapter = Adapter::load_for(&self.model, dir, task)?;
        let base = self.base_hash().map(|hash| hash.to_string());
        report::read_adapter(dir, &adapter, base.as_deref());
        Ok(adapter)
    }

    /// Returns the hash that identifies the weights. `None` if there are no weights.
    pub(crate) fn base_hash(&self) -> Option<Hash> {
        self.files.as_ref().map(|files| base_hash(self.model.config(), files))
    }

    /// Returns the files of `--data`, or those of the demo.
    ///
    /// # Errors
    /// The errors of [`data::data_files`](crate::data::data_files).
    pub(crate) fn data_files(
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
