//! Borrowed elements of a buffer. Only this crate's kernels reach them: outside of it a slice can be cut and handed on.

use super::Element;
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
}

/// Where the elements of a [`SliceMut`] are, by device.
#[derive(Debug)]
enum ElementsMut<'a, T> {
    Cpu(&'a mut [T]),
}

impl<'a, T: Element> Slice<'a, T> {
    /// Host memory, for kernels that call other kernels on memory of their own.
    pub(crate) fn of_cpu(elements: &'a [T]) -> Slice<'a, T> {
        Slice(Elements::Cpu(elements))
    }

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a [T] {
        match self.0 {
            Elements::Cpu(elements) => elements,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self.0 {
            Elements::Cpu(elements) => elements.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `range`, e.g. the first rows of an activation.
    pub fn range(&self, range: Range<usize>) -> Slice<'a, T> {
        match self.0 {
            Elements::Cpu(elements) => Slice::of_cpu(&elements[range]),
        }
    }

    /// Copies the content to the host: for per-sequence log-probs, metrics, saved adapters and tests.
    pub fn download(&self) -> Vec<T> {
        match self.0 {
            Elements::Cpu(elements) => elements.to_vec(),
        }
    }
}

impl<'a, T: Element> SliceMut<'a, T> {
    /// Host memory, for kernels that call other kernels on memory of their own.
    pub(crate) fn of_cpu(elements: &'a mut [T]) -> SliceMut<'a, T> {
        SliceMut(ElementsMut::Cpu(elements))
    }

    /// The elements, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a mut [T] {
        match self.0 {
            ElementsMut::Cpu(elements) => elements,
        }
    }

    /// Elements.
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
        }
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(elements),
        }
    }

    /// Elements `range`.
    pub fn range(self, range: Range<usize>) -> SliceMut<'a, T> {
        match self.0 {
            ElementsMut::Cpu(elements) => SliceMut::of_cpu(&mut elements[range]),
        }
    }

    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        match &mut self.0 {
            ElementsMut::Cpu(elements) => elements.fill(value),
        }
    }
}
