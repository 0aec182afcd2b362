//! Buffers, and weights in the format of their file.

use super::count::{Count, CountedBlock};
use super::{Device, Slice, SliceMut, bytes_of};
use crate::Result;
use crate::arena::Block;
use crate::formats::{Element, WeightDtype};
use half::{bf16, f16};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Owned memory of a device.
pub struct Buffer<T: Element> {
    device: Device,
    name: &'static str,
    storage: Storage<T>,
    len: usize,
}

enum Storage<T> {
    /// A block of the device's arena, in host memory or in the memory of a card.
    Block(Block),
    /// Read-only host memory that something else owns, e.g. a mapped file.
    Shared { at: *const T, _owner: Arc<dyn Any + Send + Sync> },
    /// Memory that is counted but does not exist.
    Counted { _block: CountedBlock },
    /// Weights that do not exist and are not counted: they stand for weights that are read in place from a mapped file.
    Absent,
}

// SAFETY: `Shared` points into memory that its owner keeps alive and nobody writes; a `Block` is owned.
unsafe impl<T: Element> Send for Buffer<T> {}
// SAFETY: a shared reference only reads, and nobody writes what it reads.
unsafe impl<T: Element> Sync for Buffer<T> {}

impl<T: Element> Buffer<T> {
    pub(super) fn from_block(device: Device, name: &'static str, block: Block, len: usize) -> Buffer<T> {
        Buffer { device, name, storage: Storage::Block(block), len }
    }

    pub(super) fn counted(device: Device, name: &'static str, block: CountedBlock, len: usize) -> Buffer<T> {
        Buffer { device, name, storage: Storage::Counted { _block: block }, len }
    }

    /// Whether the buffer holds zeros because nobody has written to its memory yet.
    pub(super) fn is_zeroed(&self) -> bool {
        match &self.storage {
            Storage::Block(block) => block.is_zeroed(),
            Storage::Shared { .. } | Storage::Counted { .. } | Storage::Absent => false,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name under which its bytes are counted.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The device that it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Borrows all of it.
    pub fn view(&self) -> Slice<'_, T> {
        let at = match (&self.storage, &self.device) {
            (Storage::Block(block), Device::Cuda(cuda)) => {
                return Slice::of_cuda(cuda, block.as_ptr().addr() as u64, self.len);
            }
            (Storage::Block(block), _) => block.as_ptr().cast_const().cast::<T>(),
            (Storage::Shared { at, .. }, _) => *at,
            (Storage::Counted { .. } | Storage::Absent, _) => return Slice::counted(self.len),
        };
        // SAFETY: a block and shared memory each hold at least `len` initialised elements, aligned for T (blocks to 64 bytes;
        // `Device::weights` checked shared memory), and live as long as `self`.
        Slice::of_cpu(unsafe { std::slice::from_raw_parts(at, self.len) })
    }

    /// Borrows all of it to write.
    ///
    /// # Panics
    /// If the buffer holds weights that [`Device::weights`] did not copy: the base model is never written.
    pub fn view_mut(&mut self) -> SliceMut<'_, T> {
        if let (Storage::Block(block), Device::Cuda(cuda)) = (&self.storage, &self.device) {
            return SliceMut::of_cuda(cuda, block.as_ptr().addr() as u64, self.len);
        }
        match &self.storage {
            Storage::Block(block) => {
                // SAFETY: the block holds at least `len` elements, aligned to 64 bytes; `&mut self` makes this the only borrow.
                SliceMut::of_cpu(unsafe { std::slice::from_raw_parts_mut(block.as_ptr().cast::<T>(), self.len) })
            }
            Storage::Counted { .. } => SliceMut::counted(self.len),
            Storage::Shared { .. } | Storage::Absent => panic!("frozen weights `{}` are never written", self.name),
        }
    }

    /// Copies the content to the host.
    ///
    /// # Errors
    /// As [`Slice::download`].
    pub fn download(&self) -> Result<Vec<T>> {
        self.view().download()
    }
}

impl<T: Element> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({}, {} x {})", self.name, self.len, std::any::type_name::<T>())
    }
}

impl Device {
    /// Makes a buffer of weights from the range `bytes` of `owner`, e.g. a tensor of a mapped file. The processor uses the bytes in
    /// place if they are aligned for `T`, and copies them otherwise. A card always has a copy. A buffer that uses the bytes in
    /// place is read-only and keeps `owner` alive.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`] if a copy is needed and does not fit; [`crate::KernelError::Driver`] if the GPU has
    /// failed.
    ///
    /// # Panics
    /// If the range is outside the owner's bytes or is not a whole number of elements. The loader checks both conditions.
    pub fn weights<T, O>(&self, name: &'static str, owner: &Arc<O>, bytes: Range<usize>) -> Result<Buffer<T>>
    where
        T: Element,
        O: AsRef<[u8]> + Send + Sync + 'static,
    {
        let source: &[u8] = &(**owner).as_ref()[bytes];
        assert_eq!(source.len() % size_of::<T>(), 0, "the loader checks that a tensor is a whole number of elements");
        let len = source.len() / size_of::<T>();
        match (self, bytemuck::try_cast_slice::<u8, T>(source)) {
            (Device::Cpu(_), Ok(aligned)) => {
                let owner: Arc<dyn Any + Send + Sync> = owner.clone();
                let storage = Storage::Shared { at: aligned.as_ptr(), _owner: owner };
                Ok(Buffer { device: self.clone(), name, storage, len })
            }
            (Device::Cpu(_), Err(_)) => {
                let mut copy = self.alloc::<T>(name, len)?;
                bytemuck::cast_slice_mut::<T, u8>(copy.view_mut().cpu()).copy_from_slice(source);
                Ok(copy)
            }
            (Device::Cuda(_), aligned) => {
                let copied;
                let values = match aligned {
                    Ok(values) => values,
                    Err(_) => {
                        copied = bytemuck::pod_collect_to_vec::<u8, T>(source);
                        &copied
                    }
                };
                self.upload(name, values)
            }
            (Device::Count(_), Ok(_)) => Ok(Buffer { device: self.clone(), name, storage: Storage::Absent, len }),
            (Device::Count(_), Err(_)) => self.alloc(name, len),
        }
    }
}

/// Frozen weights in the format of their file.
#[derive(Debug)]
pub enum WeightBuffer {
    /// Stored as `F32`.
    F32(Buffer<f32>),
    /// Stored as `F16`.
    F16(Buffer<f16>),
    /// Stored as `BF16`.
    Bf16(Buffer<bf16>),
}

impl WeightBuffer {
    /// As [`Device::weights`], for a format that is known at run time.
    ///
    /// # Errors
    /// As [`Device::weights`].
    pub fn new<O>(
        device: &Device,
        name: &'static str,
        dtype: WeightDtype,
        owner: &Arc<O>,
        bytes: Range<usize>,
    ) -> Result<Self>
    where
        O: AsRef<[u8]> + Send + Sync + 'static,
    {
        Ok(match dtype {
            WeightDtype::F32 => WeightBuffer::F32(device.weights(name, owner, bytes)?),
            WeightDtype::F16 => WeightBuffer::F16(device.weights(name, owner, bytes)?),
            WeightDtype::Bf16 => WeightBuffer::Bf16(device.weights(name, owner, bytes)?),
        })
    }

    /// Makes weights of `len` elements on a device that counts. This needs no file and counts no memory.
    pub fn absent(count: &Arc<Count>, name: &'static str, dtype: WeightDtype, len: usize) -> Self {
        fn of<T: Element>(count: &Arc<Count>, name: &'static str, len: usize) -> Buffer<T> {
            Buffer { device: Device::Count(count.clone()), name, storage: Storage::Absent, len }
        }
        match dtype {
            WeightDtype::F32 => WeightBuffer::F32(of(count, name, len)),
            WeightDtype::F16 => WeightBuffer::F16(of(count, name, len)),
            WeightDtype::Bf16 => WeightBuffer::Bf16(of(count, name, len)),
        }
    }

    /// Copies the content to the host, widened to f32.
    ///
    /// # Errors
    /// As [`Slice::download`].
    pub fn download(&self) -> Result<Vec<f32>> {
        match self {
            WeightBuffer::F32(buffer) => buffer.download(),
            WeightBuffer::F16(buffer) => Ok(buffer.download()?.into_iter().map(f16::to_f32).collect()),
            WeightBuffer::Bf16(buffer) => Ok(buffer.download()?.into_iter().map(bf16::to_f32).collect()),
        }
    }

    /// Borrows all of it.
    pub fn view(&self) -> WeightSlice<'_> {
        match self {
            WeightBuffer::F32(buffer) => WeightSlice::F32(buffer.view()),
            WeightBuffer::F16(buffer) => WeightSlice::F16(buffer.view()),
            WeightBuffer::Bf16(buffer) => WeightSlice::Bf16(buffer.view()),
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        match self {
            WeightBuffer::F32(buffer) => bytes_of::<f32>(buffer.len()),
            WeightBuffer::F16(buffer) => bytes_of::<f16>(buffer.len()),
            WeightBuffer::Bf16(buffer) => bytes_of::<bf16>(buffer.len()),
        }
    }
}

/// Borrowed weights in the format of their file.
#[derive(Debug, Clone, Copy)]
pub enum WeightSlice<'a> {
    /// Stored as `F32`, or a matrix of an adapter.
    F32(Slice<'a, f32>),
    /// Stored as `F16`.
    F16(Slice<'a, f16>),
    /// Stored as `BF16`.
    Bf16(Slice<'a, bf16>),
}

impl<'a> WeightSlice<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            WeightSlice::F32(slice) => slice.len(),
            WeightSlice::F16(slice) => slice.len(),
            WeightSlice::Bf16(slice) => slice.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the elements of `range`.
    pub fn range(&self, range: Range<usize>) -> WeightSlice<'a> {
        match self {
            WeightSlice::F32(slice) => WeightSlice::F32(slice.range(range)),
            WeightSlice::F16(slice) => WeightSlice::F16(slice.range(range)),
            WeightSlice::Bf16(slice) => WeightSlice::Bf16(slice.range(range)),
        }
    }
}

impl<'a> From<Slice<'a, f32>> for WeightSlice<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        WeightSlice::F32(slice)
    }
}
