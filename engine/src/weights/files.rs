//! Opens and checks the weight files of a model directory, and finds their tensors by name.

use super::error::{IndexFault, LoadError};
use super::finite;
use super::frozen::{BASE_WEIGHTS, Frozen, FrozenVector};
use super::index;
use super::quantised::{self, Quantised};
use super::read_ahead::Pages;
use super::safetensors::SafetensorsFile;
use super::tensor::TensorInfo;
use align_kernels::Device;
use align_kernels::device::WeightBuffer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Whether values are checked when a tensor is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueCheck {
    /// Refuses NaN and infinities, and notes matrices of zeros. One parallel pass does this, and also pages the tensor in.
    Finite,
    /// Values are not checked.
    Skip,
}

/// The weights of a model directory.
#[derive(Debug)]
pub struct WeightFiles {
    dir: PathBuf,
    shards: Vec<SafetensorsFile>,
    /// Maps a name to its shard and its place in the shard.
    places: BTreeMap<String, (usize, usize)>,
    index_faults: Vec<IndexFault>,
    links: Vec<(PathBuf, PathBuf)>,
    value_check: ValueCheck,
    /// Names of matrices that were handed out and have only zeros.
    all_zero: Mutex<BTreeSet<String>>,
}

impl WeightFiles {
    /// Opens `model.safetensors` or the shards of `model.safetensors.index.json` in `dir`. Reads headers only.
    ///
    /// # Errors
    /// [`LoadError`] if there are no weights, if a file is damaged, or if it is unclear which tensors the index means.
    pub fn open(dir: &Path, value_check: ValueCheck) -> Result<WeightFiles, LoadError> {
        let index::Shards { files: shards, index_faults, links } = index::open_shards(dir)?;
        let mut places = BTreeMap::new();
        for (shard_idx, shard) in shards.iter().enumerate() {
            for (tensor_idx, tensor) in shard.tensors().iter().enumerate() {
                places.insert(tensor.name.clone(), (shard_idx, tensor_idx));
            }
        }
        let (dir, all_zero) = (dir.to_owned(), Mutex::default());
        Ok(WeightFiles { dir, shards, places, index_faults, links, value_check, all_zero })
    }

    /// Whether `dir` holds a file that is named like weights, damaged or not. A run can be planned without one.
    pub fn are_in(dir: &Path) -> bool {
        index::has_weights(dir)
    }

    /// Returns the model directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the weight files, in the order of their names.
    pub fn shards(&self) -> &[SafetensorsFile] {
        &self.shards
    }

    /// Returns the path of the index of shards. If the weights are a single file, there may be no file at that path.
    pub fn index_path(&self) -> PathBuf {
        self.dir.join(index::INDEX)
    }

    /// Returns the faults of the index. They do not matter if every tensor of the model is there.
    pub fn index_faults(&self) -> &[IndexFault] {
        &self.index_faults
    }

    /// Returns files that are links out of the directory, with their targets. Links within the Hugging Face cache are not listed.
    pub fn links(&self) -> &[(PathBuf, PathBuf)] {
        &self.links
    }

    /// Returns all tensors, in the order of their names, each with the file that holds it.
    pub fn tensors(&self) -> impl Iterator<Item = (&TensorInfo, &SafetensorsFile)> + Clone {
        self.places.values().map(|&(shard, tensor)| (&self.shards[shard].tensors()[tensor], &self.shards[shard]))
    }

    pub(crate) fn get(&self, name: &str) -> Option<(&TensorInfo, &SafetensorsFile)> {
        let &(shard, tensor) = self.places.get(name)?;
        Some((&self.shards[shard].tensors()[tensor], &self.shards[shard]))
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether two tensors are equal in dtype, shape and bytes; `None` if one of them is missing.
    pub fn equal(&self, a: &str, b: &str) -> Option<bool> {
        let ((a, file_a), (b, file_b)) = (self.get(a)?, self.get(b)?);
        Some(a.dtype == b.dtype && a.shape == b.shape && file_a.data(a) == file_b.data(b))
    }

    /// Returns the number of elements of all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors().map(|(tensor, _)| tensor.elements() as u64).sum()
    }

    /// Returns the number of bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|(tensor, _)| tensor.bytes.len() as u64).sum()
    }

    /// Returns the matrix `name`. `shape` is the `[out_features, in_features]` that config.json implies.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`], [`LoadError::Dtype`], [`LoadError::NonFinite`], and
    /// [`LoadError::Kernel`] if the device needs a copy and has no room.
    pub fn frozen(&self, device: &Device, name: &str, shape: [usize; 2]) -> Result<Frozen, LoadError> {
        let (tensor, file) = self.find(name, &shape)?;
        let dtype = file.weight_dtype(tensor)?;
        if self.check_values(device, tensor, file)? {
            self.zeros().insert(name.to_owned());
        }
        let weights = WeightBuffer::new(device, BASE_WEIGHTS, dtype, file.map(), tensor.bytes.clone())?;
        Ok(Frozen::new(name, shape, weights))
    }

    /// Returns where the bytes of the tensor `name` are mapped. `None` if there is no such tensor.
    pub fn pages(&self, name: &str) -> Option<Pages> {
        let (tensor, file) = self.get(name)?;
        Some(Pages { map: file.map().clone(), bytes: tensor.bytes.clone() })
    }

    /// Returns the vector `name` with `len` elements, widened to f32.
    ///
    /// # Errors
    /// The errors of [`Self::frozen`].
    pub fn vector(&self, device: &Device, name: &str, len: usize) -> Result<FrozenVector, LoadError> {
        let (tensor, file) = self.find(name, &[len])?;
        self.check_values(device, tensor, file)?;
        Ok(FrozenVector::new(device, name, &file.to_f32(tensor)?)?)
    }

    /// Returns the names of matrices that were handed out and hold only zeros. An interrupted download can leave such matrices.
    pub fn all_zero(&self) -> Vec<String> {
        self.zeros().iter().cloned().collect()
    }

    /// Returns the first sign of quantised weights. `None` if the weights are not quantised.
    pub fn quantised(&self) -> Option<Quantised> {
        quantised::recognise(self.tensors().map(|(tensor, _)| tensor), |name| self.contains(name))
    }

    /// Returns the tensor `name`, which must have the shape that config.json implies, and its file.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn find(&self, name: &str, want: &[usize]) -> Result<(&TensorInfo, &SafetensorsFile), LoadError> {
        let Some((tensor, file)) = self.get(name) else {
            return Err(LoadError::Missing { path: self.dir.clone(), name: name.to_owned(), want: want.to_vec() });
        };
        if tensor.shape != want {
            return Err(LoadError::Shape {
                path: file.path().to_owned(),
                name: name.to_owned(),
                got: tensor.shape.clone(),
                want: want.to_vec(),
            });
        }
        Ok((tensor, file))
    }

    /// Checks the values of a tensor, and returns whether all of them are zero. Returns `false` if values are not checked.
    fn check_values(&self, device: &Device, tensor: &TensorInfo, file: &SafetensorsFile) -> Result<bool, LoadError> {
        if self.value_check == ValueCheck::Skip {
            return Ok(false);
        }
        let values = finite::look(device, file.weight_dtype(tensor)?, file.data(tensor));
        match values.nonfinite {
            None => Ok(values.all_zero),
            Some((element, value)) => {
                Err(LoadError::NonFinite { path: file.path().to_owned(), name: tensor.name.clone(), element, value })
            }
        }
    }

    fn zeros(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.all_zero.lock().expect("no holder of the names panics")
    }
}
