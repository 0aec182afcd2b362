//! LoRA adapters: their configuration, the layers that they change, their PEFT files, and merging them into the base.

mod config;
mod error;
mod folder;
mod hashes;
mod merge;
mod names;
mod peft;
mod targets;

pub use blake3::Hash;
pub use config::{LoraConfig, Task};
pub use error::{AdapterError, ConfigFault};
pub use folder::{CONFIG as ADAPTER_CONFIG, Instead, StrayAdapter, WEIGHTS as ADAPTER_WEIGHTS};
pub use hashes::{adapter_hash, base_hash};
pub use merge::{Existing, Merge, MergeError, MergeReport};
pub use names::Misnamed;
pub use targets::{Choice, ModuleNames, Modules, Targets};

use align_engine::adapters::{AdapterSet, LowRank};
use align_engine::model::{LinearInfo, Model};
use align_engine::param::{Param, ParamId};
use align_kernels::rng::Key;
use align_kernels::{Device, KernelError};
use names::Half;
use peft::{Contents, NotRun, Tensor, Update, Wanted};
use std::path::Path;
use std::sync::Arc;

/// A LoRA adapter of a model: its configuration, and its values on the model's device.
#[derive(Debug)]
pub struct Adapter {
    device: Device,
    config: LoraConfig,
    set: Arc<AdapterSet>,
    /// The names of the tensors in PEFT's file, by [`ParamId`].
    keys: Vec<String>,
    /// Updates of parts that this program does not run. They are written with the adapter.
    not_run: Vec<NotRun>,
    /// [`base_hash`] of the base that it was trained on, if known.
    base: Option<String>,
}

impl Adapter {
    /// Makes a fresh adapter, which changes nothing yet: A is uniform within `1 / sqrt(in_features)`, B is zero. The values
    /// of a module depend on the seed and on its place in the model, not on the other targets.
    ///
    /// `all-linear` becomes the list of names that it stands for, so that every program reads the written configuration alike.
    ///
    /// With [`Task::SequenceClassification`] it has a score head of zeros. So every reward is exactly 0, the first loss is
    /// exactly `ln 2`, and no answer is preferred by chance (transformers draws normal numbers instead). The updates of the
    /// layers have a gradient from the second step on.
    ///
    /// # Errors
    /// [`AdapterError::Options`], [`AdapterError::Kernel`].
    /// # Source
    /// peft `LoraLayer.reset_lora_parameters`: `kaiming_uniform(a = sqrt(5))`, whose bound is `1 / sqrt(in_features)`.
    pub fn fresh(model: &Model, config: &LoraConfig, seed: u64) -> Result<Adapter, AdapterError> {
        config.check().map_err(AdapterError::Options)?;
        let mut config = config.clone();
        let linears = model.linears();
        let modules = Modules::new(linears, model.config().module_prefix);
        let choices = config.choose(&modules).map_err(AdapterError::Options)?;
        if config.target_modules == Targets::AllLinear {
            config.target_modules = Targets::Named(ModuleNames::List(targets::spelled_out(&modules)));
        }
        let updates = choices.into_iter().map(|choice| {
            let LinearInfo { id, in_features, out_features, .. } = linears[choice.linear];
            let key = Key::new(seed, INITIALISATION, id.0 as u64);
            let bound = 1.0 / (in_features as f32).sqrt();
            let lora_a = (0..choice.rank * in_features).map(|i| bound * (2.0 * key.unit(i as u64) - 1.0)).collect();
            Update { choice, lora_a, lora_b: vec![0.0; out_features * choice.rank] }
        });
        let score_head = match config.task {
            Task::CausalLm => None,
            Task::SequenceClassification => Some(vec![0.0; model.config().hidden_size]),
        };
        Ok(Adapter::on_device(model.device(), linears, config, updates, score_head)?)
    }

    /// Reads the adapter of a language model from `dir`, as PEFT or [`Adapter::save`] wrote it. Values in 16 bits are widened.
    ///
    /// # Errors
    /// Every variant of [`AdapterError`] about reading. The adapter must fit the model and its configuration exactly, and
    /// have no score head.
    pub fn load(model: &Model, dir: &Path) -> Result<Adapter, AdapterError> {
        Adapter::load_for(model, dir, Some(Task::CausalLm))
    }

    /// Reads an adapter that was trained for `task`, or for any task if that is `None`.
    ///
    /// # Errors
    /// As [`Adapter::load`], but a score head is required with [`Task::SequenceClassification`].
    pub fn load_for(model: &Model, dir: &Path, task: Option<Task>) -> Result<Adapter, AdapterError> {
        let linears = model.linears();
        let wanted = Wanted { task, hidden_size: model.config().hidden_size };
        let Contents { config, updates, score_head, not_run, base } =
            peft::read(dir, linears, model.config().module_prefix, wanted)?;
        let adapter = Adapter::on_device(model.device(), linears, config, updates, score_head)?;
        Ok(Adapter { not_run, base, ..adapter })
    }

    fn on_device(
        device: &Device,
        linears: &[LinearInfo],
        config: LoraConfig,
        updates: impl IntoIterator<Item = Update>,
        score_head: Option<Vec<f32>>,
    ) -> Result<Adapter, KernelError> {
        let mut set = AdapterSet::new(linears.len());
        let mut keys = Vec::new();
        for Update { choice, lora_a, lora_b } in updates {
            let LinearInfo { id, name, in_features, out_features } = &linears[choice.linear];
            let rank = choice.rank;
            let lora_a = Param::new(device, ParamId(keys.len()), [rank, *in_features], &lora_a)?;
            keys.push(names::key(name, Half::A));
            let lora_b = Param::new(device, ParamId(keys.len()), [*out_features, rank], &lora_b)?;
            keys.push(names::key(name, Half::B));
            set.insert(*id, LowRank { lora_a, lora_b, scaling: choice.scaling });
        }
        if let Some(head) = score_head {
            set.set_score_head(Param::new(device, ParamId(keys.len()), [1, head.len()], &head)?);
            keys.push(names::score_key());
        }
        Ok(Adapter { device: device.clone(), config, set: Arc::new(set), keys, not_run: Vec::new(), base: None })
    }

    /// Writes `adapter_model.safetensors` and `adapter_config.json` into `dir`, which is made if it is missing. If writing a file
    /// fails, an existing file of that name is left unchanged.
    ///
    /// # Errors
    /// [`AdapterError::Io`], [`AdapterError::Write`]; [`AdapterError::NonFinite`] for values that [`Adapter::load`] would
    /// refuse; [`AdapterError::Kernel`] if the device has failed.
    pub fn save(&self, dir: &Path) -> Result<(), AdapterError> {
        let io = |source| AdapterError::Io { path: dir.to_owned(), action: "make the folder", source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let tensor = |(key, param): (String, &Param)| {
            Ok(Tensor { key, shape: param.shape().to_vec(), values: param.read().download()? })
        };
        let not_run = self.not_run.iter().flat_map(|update| [update.lora_a.clone(), update.lora_b.clone()]);
        let tensors = self.params().map(tensor).chain(not_run.map(Ok)).collect::<Result<_, AdapterError>>()?;
        peft::write(&dir.join(folder::WEIGHTS), tensors, self.base.as_deref())?;
        self.config.write(&dir.join(folder::CONFIG))
    }

    /// Sets `lora_dropout` of the configuration.
    ///
    /// # Errors
    /// [`AdapterError::Options`] unless the share is at least 0 and below 1.
    pub fn set_dropout(&mut self, dropout: f64) -> Result<(), AdapterError> {
        let config = LoraConfig { dropout, ..self.config.clone() };
        config.check().map_err(AdapterError::Options)?;
        self.config = config;
        Ok(())
    }

    /// Sets the base that the adapter is trained on from now on. `hash` is its [`base_hash`], which is written with the values.
    pub fn set_base(&mut self, hash: Hash) {
        self.base = Some(hash.to_string());
    }

    /// Returns the [`base_hash`] of the base that it was trained on. `None` if its file does not say, as is usual for files of
    /// other programs.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Returns how many updates are for parts of the model that this program does not run, such as a vision tower. They change
    /// no text, and [`Adapter::save`] writes them as they were read.
    pub fn not_run(&self) -> usize {
        self.not_run.len()
    }

    /// Returns its configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Returns its values in the form that the forward pass reads.
    pub fn set(&self) -> &Arc<AdapterSet> {
        &self.set
    }

    /// Returns its parameters with their names in PEFT's file, in the order of their ids: the model's order, A before B, the
    /// score head last.
    pub fn params(&self) -> impl Iterator<Item = (String, &Param)> {
        let params = self.set.iter().flat_map(|(_, update)| [&update.lora_a, &update.lora_b]);
        self.keys.iter().cloned().zip(params.chain(self.set.score_head()))
    }

    /// Returns the number of elements of all its parameters.
    pub fn trainable_parameters(&self) -> usize {
        self.params().map(|(_, param)| param.len()).sum()
    }

    /// Copies the values. Training does not change the copy: it is the reference of a run that starts from this adapter.
    ///
    /// # Errors
    /// [`AdapterError::Kernel`] if the memory is too small or the device has failed.
    pub fn snapshot(&self) -> Result<Arc<AdapterSet>, AdapterError> {
        let copy = |param: &Param| Param::new(&self.device, param.id(), param.shape(), &param.read().download()?);
        Ok(Arc::new(self.set.map(copy)?))
    }
}

/// The step number in the random keys of the initial values. No optimiser step has this number, so no dropout mask uses the same
/// random words.
const INITIALISATION: u64 = u64::MAX;

#[cfg(test)]
mod tests;
