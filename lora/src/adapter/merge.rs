//! Merges an adapter into its base: writes a model directory like the base's, with `W + scaling * B·A` in place of `W`.
//!
//! Tensors are read from the mapped file, computed in pieces of some rows and written one by one, so the memory does not grow
//! with the model. Everything is written into a temporary folder beside the output. Once it is complete, that folder gets the
//! output's name.

mod copies;
mod index;
// the tests need symbolic links, and a shell that limits the size of files
#[cfg(all(test, unix))]
mod tests;

use super::config::Task;
use super::error::AdapterError;
use super::folder::WEIGHTS;
use super::hashes::base_hash;
use super::names::shared_name;
use super::peft::{self, Contents, NotRun, Update, Wanted};
use super::targets::Choice;
use align_data::TemplateSources;
use align_engine::model::{ConfigError, ConfigJson, Layout, LinearInfo, ModelConfig, ModelNote, families};
use align_engine::new_file::{folder_of, sync};
use align_engine::weights::{
    LoadError, SafetensorsFile, SafetensorsWriter, TensorInfo, TensorSpec, ValueCheck, WeightFiles, WriteError, widen,
};
use align_kernels::device::WeightDtype;
use align_kernels::gemm::{Accumulate, Dx};
use align_kernels::{Buffer, Columns, Device, KernelError, Precision};
use copies::Fate;
use half::{bf16, f16};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Elements of a tensor that are computed at once: 16 MiB as f32, far more than a product needs to run at full speed. It is
/// small in tests, so that the tiny models have tensors of several pieces.
const PIECE: usize = if cfg!(test) { 1 << 11 } else { 1 << 22 };
/// Elements that one thread adds and rounds at a time.
const TASK: usize = if cfg!(test) { 1 << 8 } else { 1 << 15 };

/// The inputs and the output of a merge.
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    /// The base's directory.
    pub model: &'a Path,
    /// The adapter's directory.
    pub adapter: &'a Path,
    /// The new directory.
    pub output: &'a Path,
    /// What happens to `output` if it is not empty.
    pub existing: Existing,
    /// Chat templates for the new directory. `None` keeps the base's.
    pub chat_template: Option<&'a TemplateSources>,
}

/// What happens to an output directory that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the merge is refused.
    Keep,
    /// It is removed when the new directory is complete.
    Replace,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MergeReport {
    /// Number of matrices that an update was added to.
    pub merged: usize,
    /// How many of the merged matrices belong to parts that this program does not run, such as a vision tower.
    pub not_run: usize,
    /// Total number of elements of the merged matrices.
    pub elements: u64,
    /// How many of the elements changed. A small update can vanish when a 16-bit weight is rounded.
    pub changed: u64,
    /// Largest absolute value of an update.
    pub max_delta: f32,
    /// Bytes of all written tensors, including those without an update.
    pub bytes: u64,
    /// Number of other files that were copied. It includes `config.json` and the index of shards, which may be rewritten to fit
    /// the weights.
    pub copied: usize,
    /// Paths within the base's directory that were not copied: other forms of the weights, which lack the update; files of an
    /// adapter and of a training run; folders of version control and download tools; links to folders, and broken links.
    pub left_out: Vec<PathBuf>,
    /// Keys of `config.json` that were left out because they claim a quantisation that the weights do not have.
    pub config_keys: Vec<String>,
    /// [`base_hash`] of the base.
    pub base: String,
    /// [`base_hash`] of the base that the adapter was trained on, if the adapter's file says so.
    pub trained_on: Option<String>,
    /// `base_model_name_or_path` of the adapter.
    pub base_name: Option<String>,
    /// What a user should know about the base.
    pub notes: Vec<ModelNote>,
}

/// Why a merge was refused or failed. [`Merge::run`] says what then happens to the output directory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum MergeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{output}: exists and is not empty")]
    NotEmpty { output: PathBuf },
    #[error("{output}: is there and not a folder")]
    NotAFolder { output: PathBuf },
    #[error("{output}: lies in, or holds, {input}, which is read")]
    Overlap { output: PathBuf, input: PathBuf },
    #[error(
        "{path}: `{tensor}` would hold {base} + {delta} at element {element}, which is not finite as {dtype:?}; \
         the weights are damaged, or the adapter is from a run that diverged"
    )]
    NonFinite { path: PathBuf, tensor: String, element: usize, base: f32, delta: f32, dtype: WeightDtype },
    /// An update belongs to a part that this program does not run, and the base's files lack the tensor or have it in another
    /// shape.
    #[error(
        "{path}: the update of `{tensor}` {:?} and its A {:?} {}; is this the adapter of another model?",
        .shapes[0], .shapes[1], not_run_hint(.found.as_deref())
    )]
    NotRun {
        path: PathBuf,
        /// The name of the update's B.
        tensor: String,
        /// The shapes of B and of A.
        shapes: [Vec<usize>; 2],
        /// The name and shape of the base's tensor to which the update belongs. `None` if the base lacks it.
        found: Option<Box<(String, Vec<usize>)>>,
    },
    #[error("{output}: not written: cannot {action} {path}: {source}; what was there before stays")]
    Io { output: PathBuf, action: &'static str, path: PathBuf, source: io::Error },
    #[error("{output}: not written: {source}")]
    Write { output: PathBuf, source: WriteError },
}

fn not_run_hint(found: Option<&(String, Vec<usize>)>) -> String {
    match found {
        Some((name, shape)) => format!("does not fit `{name}` {shape:?} of the base"),
        None => "is for a module that the base's files do not have".to_owned(),
    }
}

impl Merge<'_> {
    /// Merges the adapter into the base. `progress` receives the bytes of tensors that are written so far, and the bytes of all
    /// tensors.
    ///
    /// # Errors
    /// [`MergeError`]. The output directory is unchanged, with two exceptions. If the old directory was set aside and cannot be
    /// renamed back, the error names where it is now. If only the last step fails, which syncs the parent folder, the new
    /// directory is in place.
    pub fn run(self, device: &Device, progress: &mut dyn FnMut(u64, u64)) -> Result<MergeReport, MergeError> {
        self.check_output()?;
        let base = Base::open(self.model)?;
        // a merged language model cannot hold a score head
        let wanted = Wanted { task: Some(Task::CausalLm), hidden_size: base.config.hidden_size };
        let Contents { config, updates, not_run, base: trained_on, .. } =
            peft::read(self.adapter, &base.linears, base.config.module_prefix, wanted)?;
        let mut deltas = BTreeMap::new();
        for update in updates {
            let linear = &base.linears[update.choice.linear];
            let tensor = &base.tensors[update.choice.linear];
            // called for its checks, which must run before anything is written
            base.files.frozen(device, tensor, [linear.out_features, linear.in_features])?;
            let Update { choice: Choice { rank, scaling, .. }, lora_a, lora_b } = update;
            deltas.insert(tensor.as_str(), Delta::new(device, rank, scaling, [&lora_a, &lora_b])?);
        }
        for update in &not_run {
            let (tensor, delta) = self.delta_of_not_run(device, &base.files, update)?;
            deltas.insert(tensor, delta);
        }

        let parent = folder_of(self.output);
        let io = |action, path: &Path, source| self.io(action, path, source);
        std::fs::create_dir_all(parent).map_err(|error| io("make", parent, error))?;
        let staged = temporary_folder(parent).map_err(|error| io("make a folder in", parent, error))?;
        let mut report = MergeReport {
            merged: deltas.len(),
            not_run: not_run.len(),
            base: base_hash(&base.config, &base.files).to_string(),
            trained_on,
            base_name: config.base_model_name_or_path,
            notes: ModelNote::of(&base.config, &base.files),
            ..MergeReport::default()
        };
        self.copy_others(&base.files, Path::new(""), staged.path(), &mut report)?;
        if let Some(template) = self.chat_template {
            template.write_to(staged.path()).map_err(|(path, error)| io("write", &path, error))?;
        }
        let total = base.files.bytes();
        for shard in base.files.shards() {
            self.write_shard(device, shard, &deltas, staged.path(), &mut report, &mut |bytes| progress(bytes, total))?;
        }
        sync(staged.path()).map_err(|error| io("write to the disk", staged.path(), error))?;
        self.put_in_place(staged, parent)?;
        Ok(report)
    }

    /// Returns the update of a part that this program does not run, with the name of the tensor in `files` to which it belongs.
    /// The files may use older names of modules.
    fn delta_of_not_run<'a>(
        &self,
        device: &Device,
        files: &'a WeightFiles,
        update: &NotRun,
    ) -> Result<(&'a str, Delta), MergeError> {
        let wanted = format!("{}.weight", shared_name(&update.module));
        let found = files.tensors().find(|(tensor, _)| shared_name(&tensor.name) == wanted);
        let (lora_a, lora_b) = (&update.lora_a, &update.lora_b);
        let fault = |found: Option<&TensorInfo>| MergeError::NotRun {
            path: self.adapter.join(WEIGHTS),
            tensor: lora_b.key.clone(),
            shapes: [lora_b.shape.clone(), lora_a.shape.clone()],
            found: found.map(|tensor| (tensor.name.clone(), tensor.shape.clone()).into()),
        };
        let Some((tensor, file)) = found else { return Err(fault(None)) };
        let ([out_features, _, ones @ ..], [_, inputs @ ..]) = (&lora_b.shape[..], &lora_a.shape[..]) else {
            return Err(fault(Some(tensor)));
        };
        let fits = tensor.shape.split_first() == Some((out_features, inputs));
        if !fits || inputs.is_empty() || inputs.contains(&0) || ones.iter().any(|size| *size != 1) {
            return Err(fault(Some(tensor)));
        }
        file.weight_dtype(tensor)?;
        let values = [&lora_a.values[..], &lora_b.values];
        Ok((&tensor.name, Delta::new(device, update.rank, update.scaling, values)?))
    }

    fn io(&self, action: &'static str, path: &Path, source: io::Error) -> MergeError {
        MergeError::Io { output: self.output.to_owned(), action, path: path.to_owned(), source }
    }

    /// Refuses an output that is inside the model's directory, holds an input or is not a folder. With [`Existing::Keep`] it must
    /// also be empty.
    fn check_output(&self) -> Result<(), MergeError> {
        let output = self.output.to_owned();
        let resolved = resolve(self.output);
        for input in [self.model, self.adapter] {
            // a missing input is reported where it is read
            let Ok(canonical) = std::fs::canonicalize(input) else { continue };
            let inside_model = input == self.model && resolved.starts_with(&canonical);
            if inside_model || canonical.starts_with(&resolved) {
                return Err(MergeError::Overlap { output, input: input.to_owned() });
            }
        }
        let mut entries = match std::fs::read_dir(self.output) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(MergeError::NotAFolder { output });
            }
            Err(error) => return Err(self.io("read", self.output, error)),
        };
        match (entries.next(), self.existing) {
            (Some(_), Existing::Keep) => Err(MergeError::NotEmpty { output }),
            _ => Ok(()),
        }
    }

    /// Copies everything in `folder`, a path within the base's directory, except the weights and what `copies` leaves out.
    fn copy_others(
        &self,
        files: &WeightFiles,
        folder: &Path,
        staged: &Path,
        report: &mut MergeReport,
    ) -> Result<(), MergeError> {
        let from = self.model.join(folder);
        let entries = std::fs::read_dir(&from).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| self.io("read", &from, error))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let path = folder.join(&name);
            let source = entry.path();
            // follows links: the files of the Hugging Face cache are links
            let facts = match std::fs::metadata(&source) {
                Ok(facts) => facts,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    report.left_out.push(path);
                    continue;
                }
                Err(error) => return Err(self.io("read", &source, error)),
            };
            let at_top = folder.as_os_str().is_empty();
            if at_top && files.shards().iter().any(|shard| shard.path().file_name() == Some(&name)) {
                continue;
            }
            let target = staged.join(&path);
            if facts.is_dir() {
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                if is_link || copies::of_folder(&name) == Fate::LeftOut {
                    report.left_out.push(path);
                    continue;
                }
                std::fs::create_dir(&target).map_err(|error| self.io("make", &target, error))?;
                self.copy_others(files, &path, staged, report)?;
                sync(&target).map_err(|error| self.io("write to the disk", &target, error))?;
            } else if !facts.is_file() || copies::of_file(&name, files) == Fate::LeftOut {
                report.left_out.push(path);
            } else {
                let copied = match at_top.then(|| index::mended(&name, files)).flatten() {
                    Some(text) => text.and_then(|text| std::fs::write(&target, text)),
                    None if at_top && name == "config.json" => write_config(&source, &target, report),
                    None => std::fs::copy(&source, &target).map(drop),
                };
                copied.and_then(|()| sync(&target)).map_err(|error| self.io("copy", &source, error))?;
                report.copied += 1;
            }
        }
        Ok(())
    }

    /// Writes `shard` with the updates added. Names, order, number formats and metadata of its tensors stay the same.
    fn write_shard(
        &self,
        device: &Device,
        shard: &SafetensorsFile,
        deltas: &BTreeMap<&str, Delta>,
        staged: &Path,
        report: &mut MergeReport,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), MergeError> {
        let write_error = |source| MergeError::Write { output: self.output.to_owned(), source };
        let name = shard.path().file_name().expect("weight files have names");
        let specs: Vec<TensorSpec> = shard.tensors().iter().map(TensorSpec::of).collect();
        let mut writer =
            SafetensorsWriter::create(&staged.join(name), shard.metadata(), &specs).map_err(write_error)?;
        for tensor in shard.tensors() {
            let data = shard.data(tensor);
            let Some(delta) = deltas.get(tensor.name.as_str()) else {
                writer.write(&tensor.name, data).map_err(write_error)?;
                report.bytes += data.len() as u64;
                progress(report.bytes);
                continue;
            };
            let dtype = shard.weight_dtype(tensor)?;
            let rows_at_once = (PIECE / delta.in_features).max(1);
            let row_bytes = delta.in_features * dtype.bytes();
            let mut merged = Vec::new();
            for (piece, weights) in data.chunks(rows_at_once * row_bytes).enumerate() {
                let first_row = piece * rows_at_once;
                let added = delta.rows(device, first_row, weights.len() / row_bytes)?;
                let sums = add(device, dtype, weights, &added, &mut merged);
                if let Some(at) = sums.nonfinite {
                    return Err(MergeError::NonFinite {
                        path: shard.path().to_owned(),
                        tensor: tensor.name.clone(),
                        element: first_row * delta.in_features + at,
                        base: widen(dtype, &weights[at * dtype.bytes()..]),
                        delta: added[at],
                        dtype,
                    });
                }
                report.elements += added.len() as u64;
                report.changed += sums.changed;
                report.max_delta = report.max_delta.max(sums.max_delta);
                writer.write(&tensor.name, &merged).map_err(write_error)?;
                report.bytes += merged.len() as u64;
                progress(report.bytes);
            }
        }
        writer.finish().map_err(write_error)
    }

    /// Gives the finished folder the output's name. An old output is set aside first and removed afterwards.
    fn put_in_place(&self, staged: TempDir, parent: &Path) -> Result<(), MergeError> {
        // if the output is a link to a folder, the folder is replaced and the link stays
        let output = resolve(self.output);
        let old = match output.exists() {
            true => {
                let beside = output.parent().unwrap_or(parent);
                let aside = temporary_folder(beside).map_err(|error| self.io("make a folder in", beside, error))?;
                let old = aside.path().join("old");
                std::fs::rename(&output, &old).map_err(|error| self.io("set aside", &output, error))?;
                Some((aside, old))
            }
            false => None,
        };
        if let Err(error) = std::fs::rename(staged.path(), &output) {
            if let Some((aside, old)) = old {
                // if even this fails, the old folder stays aside and must not be removed
                if std::fs::rename(&old, &output).is_err() {
                    let kept = aside.keep().join("old");
                    return Err(self.io("put back what is now in", &kept, error));
                }
            }
            return Err(self.io("rename the finished folder to", &output, error));
        }
        // it has its new name, so nothing is left to remove
        let _ = staged.keep();
        sync(parent).map_err(|error| self.io("write to the disk", parent, error))
    }
}

/// Copies `config.json` without the keys that claim a quantisation, since merged weights are not quantised. Also replaces a class
/// in `architectures` that other programs do not know.
fn write_config(source: &Path, target: &Path, report: &mut MergeReport) -> io::Result<()> {
    let bytes = std::fs::read(source)?;
    let Ok(serde_json::Value::Object(mut config)) = serde_json::from_slice(&bytes) else {
        // cannot happen: the file has just been read as a JSON object
        return std::fs::write(target, bytes);
    };
    report.config_keys = copies::without_quantisation(&mut config);
    // cannot fail: the file has just been read as a model's configuration
    let architecture = families::architecture_to_name(&ConfigJson::new(source, config.clone())).ok().flatten();
    if let Some(name) = architecture {
        config.insert("architectures".to_owned(), vec![name].into());
    }
    match report.config_keys.is_empty() && architecture.is_none() {
        true => std::fs::write(target, bytes),
        false => std::fs::write(target, serde_json::to_vec_pretty(&config)?),
    }
}

/// The base, without its values.
struct Base {
    config: ModelConfig,
    files: WeightFiles,
    linears: Vec<LinearInfo>,
    /// The name of the weight tensor of each of `linears`.
    tensors: Vec<String>,
}

impl Base {
    fn open(dir: &Path) -> Result<Base, MergeError> {
        let config = ModelConfig::open(dir)?;
        // values are checked when they are merged
        let files = WeightFiles::open(dir, ValueCheck::Skip)?;
        let layout = Layout::fitted(&config, &files)?;
        let projections = config.projections();
        let weights = |layer_idx| projections.iter().map(move |&projection| (layer_idx, projection));
        let tensors = (0..config.num_hidden_layers).flat_map(weights);
        let tensors = tensors.map(|(layer_idx, projection)| layout.weight(layer_idx, projection)).collect();
        Ok(Base { linears: config.linears(), config, files, tensors })
    }
}

/// The update of one matrix.
struct Delta {
    rank: usize,
    /// Elements in a row of the matrix. For a convolution, all weights of one output channel.
    in_features: usize,
    scaling: f32,
    /// `[rank, in_features]`
    lora_a: Buffer<f32>,
    /// `[out_features, rank]`
    lora_b: Buffer<f32>,
}

impl Delta {
    /// Puts the values of A and of B on the device.
    fn new(device: &Device, rank: usize, scaling: f32, [a, b]: [&[f32]; 2]) -> Result<Delta, KernelError> {
        let (lora_a, lora_b) = (device.upload("merge.lora_a", a)?, device.upload("merge.lora_b", b)?);
        Ok(Delta { rank, in_features: a.len() / rank, scaling, lora_a, lora_b })
    }

    /// Computes the rows `first_row..first_row + rows` of `scaling * B·A`.
    fn rows(&self, device: &Device, first_row: usize, rows: usize) -> Result<Vec<f32>, KernelError> {
        let mut delta = device.alloc("merge.delta", rows * self.in_features)?;
        let of_rows = first_row * self.rank..(first_row + rows) * self.rank;
        Dx {
            m: rows,
            n: self.rank,
            k: self.in_features,
            alpha: self.scaling,
            dy: Columns::all(self.lora_b.view().range(of_rows), self.rank),
            w: self.lora_a.view().into(),
            dx: delta.view_mut().into(),
            accumulate: Accumulate::Set,
            precision: Precision::F32,
        }
        .run(device)?;
        delta.download()
    }
}

/// What [`add`] found.
#[derive(Default)]
struct Sums {
    /// The first element whose sum is NaN or infinite.
    nonfinite: Option<usize>,
    changed: u64,
    max_delta: f32,
}

/// Computes `merged = weights + delta` in f32, rounded once to the format of `weights`.
fn add(device: &Device, dtype: WeightDtype, weights: &[u8], delta: &[f32], merged: &mut Vec<u8>) -> Sums {
    merged.resize(weights.len(), 0);
    let size = dtype.bytes();
    let task = |index: usize, weights: &[u8], delta: &[f32], merged: &mut [u8]| -> Sums {
        let mut sums = Sums::default();
        let elements = weights.chunks_exact(size).zip(delta).zip(merged.chunks_exact_mut(size));
        for (at, ((weight, &delta), merged)) in elements.enumerate() {
            let sum = narrow(dtype, widen(dtype, weight) + delta, merged);
            if !sum.is_finite() && sums.nonfinite.is_none() {
                sums.nonfinite = Some(index * TASK + at);
            }
            sums.changed += u64::from(sum != widen(dtype, weight));
            sums.max_delta = sums.max_delta.max(delta.abs());
        }
        sums
    };
    device.install(|| {
        let tasks = weights.par_chunks(TASK * size).zip(delta.par_chunks(TASK)).zip(merged.par_chunks_mut(TASK * size));
        tasks.enumerate().map(|(index, ((weights, delta), merged))| task(index, weights, delta, merged)).reduce(
            Sums::default,
            |one, other| Sums {
                nonfinite: one.nonfinite.into_iter().chain(other.nonfinite).min(),
                changed: one.changed + other.changed,
                max_delta: one.max_delta.max(other.max_delta),
            },
        )
    })
}

/// Stores `value` in the format `dtype` and returns the stored value.
fn narrow(dtype: WeightDtype, value: f32, bytes: &mut [u8]) -> f32 {
    match dtype {
        WeightDtype::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
        WeightDtype::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        WeightDtype::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
    }
    widen(dtype, bytes)
}

/// Resolves the links in a path. The part of the path that does not exist stays as it is.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = std::fs::canonicalize(path) {
        return resolved;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => absolute,
    }
}

fn temporary_folder(parent: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    #[cfg(unix)]
    {
        // as with create_dir, the umask decides who may read it
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent)
}
