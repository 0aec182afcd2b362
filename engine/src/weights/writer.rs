//! Writes a safetensors file tensor by tensor, so that a file of any size needs the memory of one tensor.

use super::error::WriteError;
use crate::new_file::{NewFile, NewFileError};
use safetensors::Dtype;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Writes a safetensors file. The file gets its name when [`Self::finish`] has put every byte on the disk. Until then, and
/// after any error, an older file under that name is unchanged.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: NewFile,
    /// Name and bytes of the tensors still to come.
    pending: VecDeque<(String, usize)>,
}

impl SafetensorsWriter {
    /// Begins `path` with a header for `tensors`, which lie in the file in the order given.
    ///
    /// # Errors
    /// [`WriteError::Io`], [`WriteError::Duplicate`], [`WriteError::Overflow`].
    pub fn create(
        path: &Path,
        metadata: &BTreeMap<String, String>,
        tensors: &[TensorSpec],
    ) -> Result<SafetensorsWriter, WriteError> {
        let io = |action, source| WriteError::Io { path: path.to_owned(), action, source };
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(tensors.len());
        let mut pending = VecDeque::with_capacity(tensors.len());
        let mut begin = 0usize;
        for tensor in tensors {
            if !seen.insert(&tensor.name) {
                return Err(WriteError::Duplicate { path: path.to_owned(), name: tensor.name.clone() });
            }
            let overflow = || WriteError::Overflow {
                path: path.to_owned(),
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
            };
            let bits = tensor.shape.iter().try_fold(tensor.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
            let bytes = bits.filter(|bits| bits.is_multiple_of(8)).ok_or_else(overflow)? / 8;
            let end = begin.checked_add(bytes).ok_or_else(overflow)?;
            entries.push(Entry { tensor, data_offsets: (begin, end) });
            pending.push_back((tensor.name.clone(), bytes));
            begin = end;
        }

        let mut header = serde_json::to_vec(&HeaderJson { metadata, entries: &entries })
            .map_err(|error| io("make its header", error.into()))?;
        // Spaces up to a multiple of 8, so that the first tensor is aligned.
        header.resize(header.len().next_multiple_of(8), b' ');

        let new_file = new_file_error(path);
        let mut file = NewFile::create(path).map_err(&new_file)?;
        file.write(&(header.len() as u64).to_le_bytes()).map_err(&new_file)?;
        file.write(&header).map_err(&new_file)?;
        Ok(SafetensorsWriter { path: path.to_owned(), file, pending })
    }

    /// Writes the next tensor: `bytes` little endian, row-major. Repeated calls with the same name add to the same tensor, so
    /// that a tensor can come in pieces.
    ///
    /// # Errors
    /// [`WriteError::Order`] if another tensor is next, [`WriteError::Length`] for more bytes than its shape has,
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

struct HeaderJson<'a> {
    metadata: &'a BTreeMap<String, String>,
    entries: &'a [Entry<'a>],
}

struct Entry<'a> {
    tensor: &'a TensorSpec,
    data_offsets: (usize, usize),
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        for entry in self.entries {
            map.serialize_entry(&entry.tensor.name, entry)?;
        }
        map.end()
    }
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("dtype", &self.tensor.dtype)?;
        map.serialize_entry("shape", &self.tensor.shape)?;
        map.serialize_entry("data_offsets", &self.data_offsets)?;
        map.end()
    }
}
