//! Borrowed elements of a buffer. This crate's kernels read and write them. Outside the crate a slice can only be cut, passed on,
//! downloaded, filled and copied. On a device that counts, a slice is a length.

use crate::Result;
use crate::cuda::{Cuda, Ptr, PtrMut};
use crate::formats::Element;
use std::marker::PhantomData;
use std::ops::Range;

/// Borrowed elements of a [`super::Buffer`].
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a, T>(Elements<'a, T>);

/// Elements of a [`super::Buffer`], borrowed to write.
#[derive(Debug)]
pub struct SliceMut<'a, T>(ElementsMut<'a, T>);

/// Where the elements of a [`Slice`] are, by device.
#[derive(Debug, Clone, Copy)]
enum Elements<'a, T> {
    Cpu(&'a [T]),
    Cuda(Span<'a, T>),
    Counted { len: usize },
}

/// Where the elements of a [`SliceMut`] are, by device.
#[derive(Debug)]
enum ElementsMut<'a, T> {
    Cpu(&'a mut [T]),
    /// No other slice has these elements: a [`SliceMut`] cannot be copied.
    Cuda(Span<'a, T>),
    Counted {
        len: usize,
    },
}

/// Elements in the memory of a GPU: an address that only kernels follow.
#[derive(Debug, Clone, Copy)]
struct Span<'a, T> {
    at: u64,
    len: usize,
    home: &'a Cuda,
    of: PhantomData<&'a [T]>,
}

impl<'a, T> Span<'a, T> {
    fn range(self, range: Range<usize>) -> Span<'a, T> {
        let len = len_of(range.clone(), self.len);
        Span { at: self.at + (range.start * size_of::<T>()) as u64, len, ..self }
    }
}

impl<'a, T: Element> Slice<'a, T> {
    /// Borrows host memory: that of a buffer, or a kernel's own memory on which it calls another kernel.
    pub(crate) fn of_cpu(elements: &'a [T]) -> Slice<'a, T> {
        Slice(Elements::Cpu(elements))
    }

    /// Makes a slice of elements that are counted but do not exist.
    pub(crate) fn counted(len: usize) -> Slice<'a, T> {
        Slice(Elements::Counted { len })
    }

    /// Borrows `len` elements at the address `at` of a GPU.
    pub(crate) fn of_cuda(home: &'a Cuda, at: u64, len: usize) -> Slice<'a, T> {
        Slice(Elements::Cuda(Span { at, len, home, of: PhantomData }))
    }

    /// The address of the elements, for a kernel's CUDA version.
    pub(crate) fn cuda(self) -> Ptr<T> {
        match self.0 {
            Elements::Cuda(span) => Ptr::new(span.at),
            Elements::Cpu(_) | Elements::Counted { .. } => panic!("{OF_ANOTHER_DEVICE}"),
        }
    }

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a [T] {
        match self.0 {
            Elements::Cpu(elements) => elements,
            Elements::Cuda(_) => panic!("{OF_ANOTHER_DEVICE}"),
            Elements::Counted { .. } => panic!("{NOT_THERE}"),
        }
    }

    /// The elements, or an empty slice if they are not in host memory: for code that needs a call's sizes first and its elements
    /// later.
    pub(crate) fn cpu_or_none(self) -> &'a [T] {
        match self.0 {
            Elements::Cpu(elements) => elements,
            Elements::Cuda(_) | Elements::Counted { .. } => &[],
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self.0 {
            Elements::Cpu(elements) => elements.len(),
            Elements::Cuda(span) => span.len,
            Elements::Counted { len } => len,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the elements of `range`, e.g. the first rows of an activation.
    pub fn range(&self, range: Range<usize>) -> Slice<'a, T> {
        match self.0 {
            Elements::Cpu(elements) => Slice::of_cpu(&elements[range]),
            Elements::Cuda(span) => Slice(Elements::Cuda(span.range(range))),
            Elements::Counted { len } => Slice::counted(len_of(range, len)),
        }
    }

    /// Copies the content to the host: for per-sequence log-probs, metrics, saved adapters and tests. On a GPU, waits for all
    /// queued work first.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    pub fn download(&self) -> Result<Vec<T>> {
        match self.0 {
            Elements::Cpu(elements) => Ok(elements.to_vec()),
            Elements::Cuda(Span { at, len, home, .. }) => home.download(Ptr::new(at), len),
            Elements::Counted { len } => Ok(vec![T::zeroed(); len]),
        }
    }
}

impl<'a, T: Element> SliceMut<'a, T> {
    /// Borrows host memory: that of a buffer, or a kernel's own memory on which it calls another kernel.
    pub(crate) fn of_cpu(elements: &'a mut [T]) -> SliceMut<'a, T> {
        SliceMut(ElementsMut::Cpu(elements))
    }

    /// Makes a slice of elements that are counted but do not exist.
    pub(crate) fn counted(len: usize) -> SliceMut<'a, T> {
        SliceMut(ElementsMut::Counted { len })
    }

    /// Borrows `len` elements at the address `at` of a GPU, which nobody else uses.
    pub(crate) fn of_cuda(home: &'a Cuda, at: u64, len: usize) -> SliceMut<'a, T> {
        SliceMut(ElementsMut::Cuda(Span { at, len, home, of: PhantomData }))
    }

    /// The address of the elements, for a kernel's CUDA version.
    pub(crate) fn cuda(self) -> PtrMut<T> {
        match self.0 {
            ElementsMut::Cuda(span) => PtrMut::new(span.at),
            ElementsMut::Cpu(_) | ElementsMut::Counted { .. } => panic!("{OF_ANOTHER_DEVICE}"),
        }
    }

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a mut [T] {
        match self.0 {
            ElementsMut::Cpu(elements) => elements,
            ElementsMut::Cuda(_) => panic!("{OF_ANOTHER_DEVICE}"),
            ElementsMut::Counted { .. } => panic!("{NOT_THERE}"),
        }
    }

    /// As [`Slice::cpu_or_none`].
    pub(crate) fn cpu_or_none(self) -> &'a mut [T] {
        match self.0 {
            ElementsMut::Cpu(elements) => elements,
            ElementsMut::Cuda(_) | ElementsMut::Counted { .. } => &mut [],
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Borrows the same elements to read.
    pub fn as_slice(&self) -> Slice<'_, T> {
        match &self.0 {
            ElementsMut::Cpu(elements) => Slice::of_cpu(elements),
            ElementsMut::Cuda(span) => Slice(Elements::Cuda(*span)),
            ElementsMut::Counted { len } => Slice::counted(*len),
        }
    }

    /// Borrows the same elements for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(elements),
            ElementsMut::Cuda(span) => SliceMut(ElementsMut::Cuda(*span)),
            ElementsMut::Counted { len } => SliceMut::counted(*len),
        }
    }

    /// Returns the elements of `range`.
    pub fn range(self, range: Range<usize>) -> SliceMut<'a, T> {
        match self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(&mut elements[range]),
            ElementsMut::Cuda(span) => SliceMut(ElementsMut::Cuda(span.range(range))),
            ElementsMut::Counted { len } => SliceMut::counted(len_of(range, len)),
        }
    }

    /// Sets every element, on one thread.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    pub fn fill(&mut self, value: T) -> Result<()> {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => elements.fill(value),
            ElementsMut::Cuda(Span { at, len, home, .. }) => home.upload(PtrMut::new(*at), &vec![value; *len])?,
            ElementsMut::Counted { .. } => {}
        }
        Ok(())
    }
}

/// Message of the panic if an operand of a kernel is on another device: a defect of the caller.
const OF_ANOTHER_DEVICE: &str = "an operand of another device";

/// Message of the panic if the CPU version of a kernel runs on a device that counts: a defect of the code that called it.
const NOT_THERE: &str = "this memory is counted and not there";

/// Returns the length of `range`, a part of `len` elements.
///
/// # Panics
/// If the range is not inside `len` elements. A slice of elements that exist panics then too.
fn len_of(range: Range<usize>, len: usize) -> usize {
    assert!(range.start <= range.end && range.end <= len, "{range:?} is inside {len} elements");
    range.len()
}
