//! One safetensors file, mapped.

use super::error::LoadError;
use super::header::{self, Header};
use super::tensor::{TensorInfo, widen};
use align_kernels::device::WeightDtype;
use memmap2::Mmap;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mapped file with the handle that it was mapped through. The handle's metadata is about the mapped bytes, even if the path
/// now leads to another file. Clones share the mapping and the handle.
#[derive(Debug, Clone)]
pub struct MappedFile {
    path: PathBuf,
    file: Arc<File>,
    map: Arc<Mmap>,
}

impl MappedFile {
    /// Returns the path under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns all bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Returns the file's current metadata.
    ///
    /// # Errors
    /// The system's error if it cannot read the metadata.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

/// A checked safetensors file. Its tensors are read in place: opening reads only the header.
#[derive(Debug)]
pub struct SafetensorsFile {
    mapped: MappedFile,
    header: Header,
    by_name: HashMap<String, usize>,
}

impl SafetensorsFile {
    /// Maps `path` and checks its header.
    ///
    /// The file must not change while it is open: a mapping shows every change, and if the file is truncated, the system ends
    /// the process (SIGBUS). Programs that replace a file by renaming, as this one does, leave the mapping intact.
    ///
    /// # Errors
    /// [`LoadError::Io`], [`LoadError::NotAFile`], [`LoadError::Header`].
    pub fn open(path: &Path) -> Result<SafetensorsFile, LoadError> {
        let io = |action, source| LoadError::Io { path: path.to_owned(), action, source };
        // Checked before opening, since opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(|error| io("read it", error))?.is_file() {
            return Err(LoadError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(|error| io("open it", error))?;
        let header_error = |fault| LoadError::Header { path: path.to_owned(), fault };
        if file.metadata().map_err(|error| io("read it", error))?.len() == 0 {
            // The system refuses an empty mapping.
            return Err(header_error(super::error::HeaderFault::TooShort { bytes: 0 }));
        }
        // SAFETY: the mapping is read-only, and it lives in an Arc that every buffer over it holds. Nothing here can stop
        // another program from changing the file meanwhile, so the documentation of `open` forbids that. Values are read from
        // the mapping as plain numbers, for which all bit patterns are valid.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| io("map it", error))?;
        let header = header::parse(&map).map_err(header_error)?;
        let by_name = header.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let mapped = MappedFile { path: path.to_owned(), file: Arc::new(file), map: Arc::new(map) };
        Ok(SafetensorsFile { mapped, header, by_name })
    }

    /// Returns the path under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.mapped.path
    }

    /// Returns `__metadata__` of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Returns all tensors, in the order of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// Returns the tensor called `name`. `None` if the file has no such tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&at| &self.header.tensors[at])
    }

    /// Returns the bytes of a tensor of this file, little endian, row-major.
    ///
    /// # Panics
    /// If the bytes of `tensor` end beyond this file. Pass only tensors that [`Self::tensors`] or [`Self::tensor`] returned.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.mapped.map[tensor.bytes.clone()]
    }

    /// Copies a tensor, widened to f32. Use it only for small tensors such as biases and adapters.
    ///
    /// # Errors
    /// [`LoadError::Dtype`] unless the tensor is F32, F16 or BF16.
    pub fn to_f32(&self, tensor: &TensorInfo) -> Result<Vec<f32>, LoadError> {
        let dtype = self.weight_dtype(tensor)?;
        // The bytes may be misaligned, so they are not cast.
        Ok(self.data(tensor).chunks_exact(dtype.bytes()).map(|number| widen(dtype, number)).collect())
    }

    /// Returns the number format of a tensor, if weights can have it.
    ///
    /// # Errors
    /// [`LoadError::Dtype`] unless the tensor is F32, F16 or BF16.
    pub fn weight_dtype(&self, tensor: &TensorInfo) -> Result<WeightDtype, LoadError> {
        match tensor.dtype {
            Dtype::F32 => Ok(WeightDtype::F32),
            Dtype::F16 => Ok(WeightDtype::F16),
            Dtype::BF16 => Ok(WeightDtype::Bf16),
            other => Err(LoadError::Dtype {
                path: self.mapped.path.clone(),
                name: tensor.name.clone(),
                got: other.to_string(),
            }),
        }
    }

    /// Returns the mapping, so that buffers over it can hold it.
    pub(super) fn map(&self) -> &Arc<Mmap> {
        &self.mapped.map
    }

    /// Returns the mapped file, to watch it for changes.
    pub fn mapped(&self) -> &MappedFile {
        &self.mapped
    }
}
