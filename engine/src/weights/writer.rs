//! Writes a safetensors file tensor by tensor, so that a file of any size needs memory for only one tensor.

use super::error::WriteError;
use super::tensor::TensorInfo;
use crate::new_file::{NewFile, NewFileError};
use safetensors::Dtype;
use serde_json::{Map, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// The name in the file, e.g. `model.norm.weight`.
    pub name: String,
    /// Format of an element.
    pub dtype: Dtype,
    /// The shape, row-major.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Describes a tensor with the name, dtype and shape of a tensor in a file.
    pub fn of(tensor: &TensorInfo) -> TensorSpec {
        TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() }
    }
}

/// Writes a safetensors file. The file gets its name when [`Self::finish`] has put every byte on the disk. Until then, an older
/// file under that name stays unchanged, whatever fails.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: NewFile,
    /// Names of the tensors that are not complete yet, each with the number of bytes that it still needs.
    pending: VecDeque<(String, usize)>,
}

impl SafetensorsWriter {
    /// Begins the file `path` with a header for `tensors`. The tensors' bytes follow in the same order.
    ///
    /// # Errors
    /// [`WriteError::Io`] if the file cannot be written, [`WriteError::Duplicate`] if two tensors have the same name,
    /// [`WriteError::Overflow`] if a size in bytes is too large or not a whole number.
    pub fn create(
        path: &Path,
        metadata: &BTreeMap<String, String>,
        tensors: &[TensorSpec],
    ) -> Result<SafetensorsWriter, WriteError> {
        let io = |action, source| WriteError::Io { path: path.to_owned(), action, source };
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(metadata));
        }
        let mut pending = VecDeque::with_capacity(tensors.len());
        let mut begin = 0usize;
        for TensorSpec { name, dtype, shape } in tensors {
            let overflow = || WriteError::Overflow { path: path.to_owned(), name: name.clone(), shape: shape.clone() };
            let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size));
            let bytes = bits.filter(|bits| bits.is_multiple_of(8)).ok_or_else(overflow)? / 8;
            let end = begin.checked_add(bytes).ok_or_else(overflow)?;
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
            if header.insert(name.clone(), entry).is_some() {
                return Err(WriteError::Duplicate { path: path.to_owned(), name: name.clone() });
            }
            pending.push_back((name.clone(), bytes));
            begin = end;
        }

        let header = serde_json::to_vec(&header);
        let mut header = header.map_err(|error| io("make its header", error.into()))?;
        // Pads with spaces to a multiple of 8, so that the first tensor is aligned.
        header.resize(header.len().next_multiple_of(8), b' ');

        let new_file = new_file_error(path);
        let mut file = NewFile::create(path).map_err(&new_file)?;
        file.write(&(header.len() as u64).to_le_bytes()).map_err(&new_file)?;
        file.write(&header).map_err(&new_file)?;
        Ok(SafetensorsWriter { path: path.to_owned(), file, pending })
    }

    /// Writes the next tensor, or its next piece: further calls with the same name add to the same tensor. `bytes` are little
    /// endian and row-major.
    ///
    /// # Errors
    /// [`WriteError::Order`] if another tensor is next, [`WriteError::Length`] if it gets more bytes than its shape has,
    /// [`WriteError::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let Some((next, left)) = self.pending.front_mut().filter(|(next, _)| next == name) else {
            let want = self.pending.front().map(|(next, _)| next.clone());
            return Err(WriteError::Order { path: self.path.clone(), got: name.to_owned(), want });
        };
        if bytes.len() > *left {
            let (name, want) = (next.clone(), *left);
            return Err(WriteError::Length { path: self.path.clone(), name, got: bytes.len(), want });
        }
        *left -= bytes.len();
        if *left == 0 {
            self.pending.pop_front();
        }
        self.file.write(bytes).map_err(new_file_error(&self.path))
    }

    /// Puts the file on the disk under its name.
    ///
    /// # Errors
    /// [`WriteError::Unfinished`] if a tensor is missing, [`WriteError::Io`].
    pub fn finish(self) -> Result<(), WriteError> {
        let SafetensorsWriter { path, file, pending } = self;
        if let Some((name, _)) = pending.into_iter().find(|(_, left)| *left > 0) {
            return Err(WriteError::Unfinished { path, name });
        }
        file.finish().map_err(new_file_error(&path))
    }
}

fn new_file_error(path: &Path) -> impl Fn(NewFileError) -> WriteError {
    let path = path.to_owned();
    move |NewFileError { action, source }| WriteError::Io { path: path.clone(), action, source }
}
