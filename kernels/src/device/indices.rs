//! Indices: row numbers, token ids, lengths. The smallest and the largest are found at the upload, so a check compares these two
//! numbers and seldom has to read the indices.

use super::{Buffer, Device, Slice};
use crate::Result;
use std::ops::Range;

/// Stands for no index, in kernels that allow it: such a row is not scored.
pub const IGNORE: u32 = u32::MAX;

/// Owned indices of a device, with their bounds.
#[derive(Debug)]
pub struct Indices {
    buffer: Buffer<u32>,
    bounds: Bounds,
}

/// Borrowed indices. A part has the bounds of the whole.
#[derive(Debug, Clone, Copy)]
pub struct IndexSlice<'a> {
    values: Slice<'a, u32>,
    bounds: Bounds,
}

/// What is known about indices without reading them.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// The smallest and the largest index that is not [`IGNORE`]. `None` if there is no such index.
    range: Option<(u32, u32)>,
    /// Whether any index is [`IGNORE`].
    ignore: bool,
}

impl Bounds {
    fn of(indices: &[u32]) -> Bounds {
        let mut bounds = Bounds { range: None, ignore: false };
        for &index in indices {
            if index == IGNORE {
                bounds.ignore = true;
            } else {
                let (smallest, largest) = bounds.range.unwrap_or((index, index));
                bounds.range = Some((smallest.min(index), largest.max(index)));
            }
        }
        bounds
    }
}

impl Device {
    /// Copies host indices to the device. `name` appears in the memory report and in the error.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn upload_indices(&self, name: &'static str, indices: &[u32]) -> Result<Indices> {
        Ok(Indices { buffer: self.upload(name, indices)?, bounds: Bounds::of(indices) })
    }
}

impl Indices {
    /// Number of indices.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are no indices.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Borrows all indices.
    pub fn view(&self) -> IndexSlice<'_> {
        IndexSlice { values: self.buffer.view(), bounds: self.bounds }
    }
}

impl<'a> IndexSlice<'a> {
    /// Number of indices.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no indices.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the indices of `range`, with the bounds of the whole.
    pub fn range(self, range: Range<usize>) -> IndexSlice<'a> {
        IndexSlice { values: self.values.range(range), ..self }
    }

    /// Returns the indices as plain numbers, without their bounds.
    pub fn values(self) -> Slice<'a, u32> {
        self.values
    }

    /// The indices, for a kernel's CPU version.
    pub(crate) fn cpu(self) -> &'a [u32] {
        self.values.cpu()
    }

    /// Returns the place and the value of the first index outside `allowed`. Reads the indices only if their bounds are not
    /// inside `allowed`, or if one of the indices is [`IGNORE`].
    pub(crate) fn first_outside(self, allowed: Range<usize>) -> Result<Option<(usize, u32)>> {
        if self.bounds.ignore {
            self.find(|index| !allowed.contains(&index))
        } else {
            self.first_scored_outside(allowed)
        }
    }

    /// As [`IndexSlice::first_outside`], but lets [`IGNORE`] pass.
    pub(crate) fn first_scored_outside(self, allowed: Range<usize>) -> Result<Option<(usize, u32)>> {
        let within =
            |(smallest, largest): (u32, u32)| smallest as usize >= allowed.start && (largest as usize) < allowed.end;
        if self.bounds.range.is_none_or(within) {
            return Ok(None);
        }
        self.find(|index| index != IGNORE as usize && !allowed.contains(&index))
    }

    fn find(self, wrong: impl Fn(usize) -> bool) -> Result<Option<(usize, u32)>> {
        Ok(self.values.download()?.into_iter().enumerate().find(|(_, index)| wrong(*index as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_answer_for_the_indices() {
        let device = Device::cpu(Some(1)).unwrap();
        let indices = device.upload_indices("test", &[3, 7, 2]).unwrap();
        assert_eq!(indices.view().first_outside(0..8).unwrap(), None);
        assert_eq!(indices.view().first_outside(0..7).unwrap(), Some((1, 7)));
        assert_eq!(indices.view().first_outside(3..8).unwrap(), Some((2, 2)));
        assert_eq!(
            indices.view().range(0..1).first_outside(0..4).unwrap(),
            None,
            "the bound of the whole, the places of the part"
        );
        assert_eq!(device.upload_indices("test", &[]).unwrap().view().first_outside(0..0).unwrap(), None);
    }

    #[test]
    fn an_ignored_index_is_one_only_where_none_may_be_ignored() {
        let device = Device::cpu(Some(1)).unwrap();
        let indices = device.upload_indices("test", &[1, IGNORE, 4]).unwrap();
        assert_eq!(indices.view().first_outside(0..5).unwrap(), Some((1, IGNORE)));
        assert_eq!(indices.view().first_scored_outside(0..5).unwrap(), None);
        assert_eq!(indices.view().first_scored_outside(0..4).unwrap(), Some((2, 4)));
    }
}
