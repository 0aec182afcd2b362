//! Activations: f32, or bf16 if the matrix products round their operands to bf16 anyway.

use super::{Buffer, Device, Slice, SliceMut};
use crate::cuda::{Ptr, PtrMut};
use crate::error::{check_len, check_size};
use crate::formats::Float;
use crate::{FloatDtype, Result};
use half::bf16;
use std::ops::Range;

/// Activations of a format that is known at run time.
#[derive(Debug)]
pub enum FloatBuffer {
    /// The residual stream in every precision, and all activations in [`crate::Precision::F32`].
    F32(Buffer<f32>),
    /// Activations other than the residual stream, in [`crate::Precision::Bf16`].
    Bf16(Buffer<bf16>),
}

/// Borrowed activations.
#[derive(Debug, Clone, Copy)]
pub enum FloatSlice<'a> {
    /// Elements of a [`FloatBuffer::F32`].
    F32(Slice<'a, f32>),
    /// Elements of a [`FloatBuffer::Bf16`].
    Bf16(Slice<'a, bf16>),
}

/// Activations, borrowed to write.
#[derive(Debug)]
pub enum FloatSliceMut<'a> {
    /// Elements of a [`FloatBuffer::F32`].
    F32(SliceMut<'a, f32>),
    /// Elements of a [`FloatBuffer::Bf16`].
    Bf16(SliceMut<'a, bf16>),
}

impl Device {
    /// As [`Device::alloc`], for a format that is known at run time.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn alloc_float(&self, name: &'static str, dtype: FloatDtype, len: usize) -> Result<FloatBuffer> {
        Ok(match dtype {
            FloatDtype::F32 => FloatBuffer::F32(self.alloc(name, len)?),
            FloatDtype::Bf16 => FloatBuffer::Bf16(self.alloc(name, len)?),
        })
    }

    /// Copies `from` to `to`, which must have the same length. Rounds f32 if `to` is bf16. On the processor, all threads take part.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_float(&self, from: FloatSlice<'_>, to: FloatSliceMut<'_>) -> Result<()> {
        assert_eq!(from.len(), to.len(), "a copy is as long as what it copies");
        match self {
            Device::Cpu(cpu) => match (from, to) {
                (FloatSlice::F32(from), FloatSliceMut::F32(to)) => return self.copy(from, to),
                (FloatSlice::Bf16(from), FloatSliceMut::Bf16(to)) => return self.copy(from, to),
                (FloatSlice::F32(from), FloatSliceMut::Bf16(to)) => cpu.convert(from.cpu(), to.cpu()),
                (FloatSlice::Bf16(from), FloatSliceMut::F32(to)) => cpu.convert(from.cpu(), to.cpu()),
            },
            Device::Cuda(cuda) => {
                let len = from.len();
                return match (from, to) {
                    (FloatSlice::F32(from), FloatSliceMut::F32(to)) => cuda.copy(to.cuda(), from.cuda(), len),
                    (FloatSlice::Bf16(from), FloatSliceMut::Bf16(to)) => cuda.copy(to.cuda(), from.cuda(), len),
                    (FloatSlice::F32(from), FloatSliceMut::Bf16(to)) => cuda.narrow(to.cuda(), from.cuda(), len),
                    (FloatSlice::Bf16(from), FloatSliceMut::F32(to)) => cuda.widen(to.cuda(), from.cuda(), len),
                };
            }
            Device::Count(_) => {}
        }
        Ok(())
    }
}

impl FloatBuffer {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format.
    pub fn dtype(&self) -> FloatDtype {
        self.view().dtype()
    }

    /// Borrows all of it.
    pub fn view(&self) -> FloatSlice<'_> {
        match self {
            FloatBuffer::F32(buffer) => FloatSlice::F32(buffer.view()),
            FloatBuffer::Bf16(buffer) => FloatSlice::Bf16(buffer.view()),
        }
    }

    /// Borrows all of it to write.
    pub fn view_mut(&mut self) -> FloatSliceMut<'_> {
        match self {
            FloatBuffer::F32(buffer) => FloatSliceMut::F32(buffer.view_mut()),
            FloatBuffer::Bf16(buffer) => FloatSliceMut::Bf16(buffer.view_mut()),
        }
    }

    /// Copies the content to the host, widened to f32.
    ///
    /// # Errors
    /// As [`Slice::download`].
    pub fn download(&self) -> Result<Vec<f32>> {
        self.view().download()
    }
}

impl From<Buffer<bf16>> for FloatBuffer {
    fn from(buffer: Buffer<bf16>) -> Self {
        FloatBuffer::Bf16(buffer)
    }
}

impl From<Buffer<f32>> for FloatBuffer {
    fn from(buffer: Buffer<f32>) -> Self {
        FloatBuffer::F32(buffer)
    }
}

impl<'a> FloatSlice<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            FloatSlice::F32(slice) => slice.len(),
            FloatSlice::Bf16(slice) => slice.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format.
    pub fn dtype(&self) -> FloatDtype {
        match self {
            FloatSlice::F32(_) => FloatDtype::F32,
            FloatSlice::Bf16(_) => FloatDtype::Bf16,
        }
    }

    /// Returns the elements of `range`.
    pub fn range(&self, range: Range<usize>) -> FloatSlice<'a> {
        match self {
            FloatSlice::F32(slice) => FloatSlice::F32(slice.range(range)),
            FloatSlice::Bf16(slice) => FloatSlice::Bf16(slice.range(range)),
        }
    }

    /// Returns the elements of a tensor that is f32 in every precision, such as the residual stream.
    ///
    /// # Panics
    /// If the elements are bf16.
    pub fn expect_f32(self) -> Slice<'a, f32> {
        match self {
            FloatSlice::F32(slice) => slice,
            FloatSlice::Bf16(_) => panic!("expected f32, found bf16"),
        }
    }

    /// Returns the address on a card.
    ///
    /// # Panics
    /// If the elements are not of type `T`, or not on a card.
    pub(crate) fn cuda<T: Float>(self) -> Ptr<T> {
        assert_eq!(self.dtype(), T::DTYPE, "the kernel is the one of the operands' format");
        Ptr::new(match self {
            FloatSlice::F32(slice) => slice.cuda().bits(),
            FloatSlice::Bf16(slice) => slice.cuda().bits(),
        })
    }

    /// Copies the content to the host, widened to f32.
    ///
    /// # Errors
    /// As [`Slice::download`].
    pub fn download(&self) -> Result<Vec<f32>> {
        match self {
            FloatSlice::F32(slice) => slice.download(),
            FloatSlice::Bf16(slice) => Ok(slice.download()?.into_iter().map(bf16::to_f32).collect()),
        }
    }
}

impl<'a> From<Slice<'a, f32>> for FloatSlice<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        FloatSlice::F32(slice)
    }
}

impl<'a> From<Slice<'a, bf16>> for FloatSlice<'a> {
    fn from(slice: Slice<'a, bf16>) -> Self {
        FloatSlice::Bf16(slice)
    }
}

impl<'a> FloatSliceMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format.
    pub fn dtype(&self) -> FloatDtype {
        self.as_slice().dtype()
    }

    /// Borrows the same elements to read.
    pub fn as_slice(&self) -> FloatSlice<'_> {
        match self {
            FloatSliceMut::F32(slice) => FloatSlice::F32(slice.as_slice()),
            FloatSliceMut::Bf16(slice) => FloatSlice::Bf16(slice.as_slice()),
        }
    }

    /// Borrows the same elements for a shorter time.
    pub fn reborrow(&mut self) -> FloatSliceMut<'_> {
        match self {
            FloatSliceMut::F32(slice) => FloatSliceMut::F32(slice.reborrow()),
            FloatSliceMut::Bf16(slice) => FloatSliceMut::Bf16(slice.reborrow()),
        }
    }

    /// Returns the elements of a tensor that is f32 in every precision, such as the residual stream.
    ///
    /// # Panics
    /// If the elements are bf16.
    pub fn expect_f32(self) -> SliceMut<'a, f32> {
        match self {
            FloatSliceMut::F32(slice) => slice,
            FloatSliceMut::Bf16(_) => panic!("expected f32, found bf16"),
        }
    }

    /// Returns the address on a card.
    ///
    /// # Panics
    /// If the elements are not of type `T`, or not on a card.
    pub(crate) fn cuda<T: Float>(self) -> PtrMut<T> {
        assert_eq!(self.dtype(), T::DTYPE, "the kernel is the one of the operands' format");
        PtrMut::new(match self {
            FloatSliceMut::F32(slice) => slice.cuda().bits(),
            FloatSliceMut::Bf16(slice) => slice.cuda().bits(),
        })
    }

    /// Returns the elements of `range`.
    pub fn range(self, range: Range<usize>) -> FloatSliceMut<'a> {
        match self {
            FloatSliceMut::F32(slice) => FloatSliceMut::F32(slice.range(range)),
            FloatSliceMut::Bf16(slice) => FloatSliceMut::Bf16(slice.range(range)),
        }
    }
}

impl<'a> From<SliceMut<'a, f32>> for FloatSliceMut<'a> {
    fn from(slice: SliceMut<'a, f32>) -> Self {
        FloatSliceMut::F32(slice)
    }
}

impl<'a> From<SliceMut<'a, bf16>> for FloatSliceMut<'a> {
    fn from(slice: SliceMut<'a, bf16>) -> Self {
        FloatSliceMut::Bf16(slice)
    }
}

/// Some columns of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// `[rows, stride]`: all columns
    pub values: FloatSlice<'a>,
    /// The first column that a call reads. The sizes of the call say how many columns it reads.
    pub first: usize,
    /// Elements from the start of a row to the start of the next.
    pub stride: usize,
}

impl<'a> Columns<'a> {
    /// All columns of a matrix `[_, cols]`.
    pub fn all(values: impl Into<FloatSlice<'a>>, cols: usize) -> Columns<'a> {
        Columns { values: values.into(), first: 0, stride: cols }
    }

    /// Checks that `values` has `rows` rows of `stride` elements, and that `n` columns from `first` on are inside a row.
    pub(crate) fn check(self, kernel: &'static str, argument: &'static str, rows: usize, n: usize) -> Result<()> {
        check_len(kernel, argument, self.values.len(), rows.saturating_mul(self.stride))?;
        let end = self.first.saturating_add(n);
        check_size(kernel, argument, end, end <= self.stride, "columns inside their rows")
    }
}
