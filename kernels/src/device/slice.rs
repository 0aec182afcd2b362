//! Borrowed elements of a buffer. This crate's kernels read and write them. Outside the crate a slice can only be cut, passed on,
//! downloaded, filled and copied. On a device that counts, a slice is a length.

use crate::formats::Element;
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
    Counted { len: usize },
}

/// Where the elements of a [`SliceMut`] are, by device.
#[derive(Debug)]
enum ElementsMut<'a, T> {
    Cpu(&'a mut [T]),
    Counted { len: usize },
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

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a [T] {
        match self.0 {
            Elements::Cpu(elements) => elements,
            Elements::Counted { .. } => panic!("{NOT_THERE}"),
        }
    }

    /// The elements, or an empty slice on a device that counts: for code that needs a call's sizes first and its elements later.
    pub(crate) fn cpu_or_none(self) -> &'a [T] {
        match self.0 {
            Elements::Cpu(elements) => elements,
            Elements::Counted { .. } => &[],
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self.0 {
            Elements::Cpu(elements) => elements.len(),
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
            Elements::Counted { len } => Slice::counted(len_of(range, len)),
        }
    }

    /// Copies the content to the host: for per-sequence log-probs, metrics, saved adapters and tests. On a device that counts, the
    /// content is zeros.
    pub fn download(&self) -> Vec<T> {
        match self.0 {
            Elements::Cpu(elements) => elements.to_vec(),
            Elements::Counted { len } => vec![T::zeroed(); len],
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

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a mut [T] {
        match self.0 {
            ElementsMut::Cpu(elements) => elements,
            ElementsMut::Counted { .. } => panic!("{NOT_THERE}"),
        }
    }

    /// As [`Slice::cpu_or_none`].
    pub(crate) fn cpu_or_none(self) -> &'a mut [T] {
        match self.0 {
            ElementsMut::Cpu(elements) => elements,
            ElementsMut::Counted { .. } => &mut [],
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

    /// The same elements, read only.
    pub fn as_slice(&self) -> Slice<'_, T> {
        match &self.0 {
            ElementsMut::Cpu(elements) => Slice::of_cpu(elements),
            ElementsMut::Counted { len } => Slice::counted(*len),
        }
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(elements),
            ElementsMut::Counted { len } => SliceMut::counted(*len),
        }
    }

    /// Returns the elements of `range`.
    pub fn range(self, range: Range<usize>) -> SliceMut<'a, T> {
        match self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(&mut elements[range]),
            ElementsMut::Counted { len } => SliceMut::counted(len_of(range, len)),
        }
    }

    /// Sets every element to `value`.
    pub fn fill(&mut self, value: T) {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => elements.fill(value),
            ElementsMut::Counted { .. } => {}
        }
    }
}

/// Message of the panic if the CPU version of a kernel runs on a device that counts: a defect of the code that called it.
const NOT_THERE: &str = "this memory is counted and not there";

/// The length of a part of `len` elements.
///
/// # Panics
/// If the range is not inside `len` elements, as for a slice of elements that exist.
fn len_of(range: Range<usize>, len: usize) -> usize {
    assert!(range.start <= range.end && range.end <= len, "{range:?} is inside {len} elements");
    range.len()
}
