//! Adapters and models for the tests: those of `tests/goldens/`, and copies that a test may damage.

use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorSpec, ValueCheck, WeightFiles};
use align_kernels::Device;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens")
}

pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn device() -> Device {
    Device::cpu(Some(2)).unwrap()
}

pub(crate) fn tiny_model(name: &str) -> PathBuf {
    goldens().join(name).join("model")
}

pub(crate) fn load_model(dir: &Path) -> Model {
    let config = ModelConfig::open(dir).unwrap();
    Model::load(&device(), config, &WeightFiles::open(dir, ValueCheck::Finite).unwrap()).unwrap()
}

/// Returns the model directory and the adapter directory of every golden adapter whose model is in the repository.
pub(crate) fn golden_adapters() -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(goldens()).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("model/config.json").exists() && folder.join("adapter").exists() {
            found.push((folder.join("model"), folder.join("adapter")));
        }
    }
    for entry in std::fs::read_dir(goldens().join("extra")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("adapter").exists() {
            let meta = json(&folder.join("meta.json"));
            found.push((tiny_model(meta["model"].as_str().unwrap()), folder.join("adapter")));
        }
    }
    match std::env::var_os("ALIGN_SMOLLM2") {
        Some(model) => found.push((model.into(), goldens().join("smollm2-135m/adapter"))),
        None => eprintln!("not run: the adapter of smollm2-135m (set ALIGN_SMOLLM2 to its model directory)"),
    }
    found.sort();
    assert!(found.len() >= 14, "adapters are missing from {}", goldens().display());
    found
}

/// A tensor as a file stores it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little endian, row-major.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    pub(crate) fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> RawTensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        RawTensor { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }
}

/// Returns all tensors of a file, in its order, and its metadata.
pub(crate) fn read_tensors(path: &Path) -> (Vec<RawTensor>, BTreeMap<String, String>) {
    let file = SafetensorsFile::open(path).unwrap();
    let raw = file.tensors().iter().map(|tensor| RawTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        bytes: file.data(tensor).to_vec(),
    });
    (raw.collect(), file.metadata().clone())
}

pub(crate) fn write_tensors(path: &Path, tensors: &[RawTensor], metadata: &BTreeMap<String, String>) {
    let spec =
        |tensor: &RawTensor| TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let mut writer = SafetensorsWriter::create(path, metadata, &specs).unwrap();
    for tensor in tensors {
        writer.write(&tensor.name, &tensor.bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// A copy of an adapter in memory, which a test may damage before it writes the copy.
pub(crate) struct Spoilt {
    pub config: Value,
    pub tensors: Vec<RawTensor>,
}

impl Spoilt {
    pub(crate) fn copy_of(dir: &Path) -> Spoilt {
        let (tensors, _) = read_tensors(&dir.join("adapter_model.safetensors"));
        Spoilt { config: json(&dir.join("adapter_config.json")), tensors }
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub(crate) fn write(&self) -> TempDir {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        write_tensors(&dir.path().join("adapter_model.safetensors"), &self.tensors, &BTreeMap::new());
        dir
    }
}

/// Returns every file under `dir` with its content, by path.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, top: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, top, found),
                false => {
                    found.insert(path.strip_prefix(top).unwrap().to_owned(), std::fs::read(&path).unwrap());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}
