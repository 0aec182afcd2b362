//! What a device's memory is used for, by name.

use std::collections::BTreeMap;

/// What a device's memory is used for.
#[derive(Debug, Clone, Default)]
pub struct MemoryReport {
    /// Bytes of live blocks, and bytes that threads keep for packing.
    pub in_use: usize,
    /// Largest value that `in_use` has had.
    pub peak: usize,
    /// Largest value of `in_use` without the bytes of `packed`, whose share of the peak differs from run to run.
    pub blocks_peak: usize,
    /// Bytes that threads keep for packing. `in_use` contains them, but no block holds them.
    pub packed: MemoryUse,
    /// Bytes in use and their peak under each name.
    pub names: BTreeMap<&'static str, MemoryUse>,
    /// Bytes that the system has mapped for the arena. In host memory, only the touched ones have pages.
    pub mapped: usize,
    /// Bytes of all blocks so far that were untouched when they were taken, so that the system had to find pages for them. A step
    /// that needs no more memory than earlier ones leaves this unchanged.
    pub fresh: u64,
}

/// Bytes under one name.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryUse {
    /// Bytes in use now.
    pub in_use: usize,
    /// Largest value that `in_use` has had.
    pub peak: usize,
}

impl MemoryUse {
    fn add(&mut self, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
    }
}

/// The running counts behind a [`MemoryReport`]. A step takes thousands of blocks, so the names are in a short list: looking one up
/// must be fast.
#[derive(Debug, Default)]
pub(crate) struct MemoryCount {
    /// As [`MemoryReport::in_use`].
    pub in_use: usize,
    /// As [`MemoryReport::peak`].
    pub peak: usize,
    blocks_peak: usize,
    packed: MemoryUse,
    names: Vec<(&'static str, MemoryUse)>,
}

impl MemoryCount {
    /// Counts bytes that were taken.
    pub(crate) fn add(&mut self, name: &'static str, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
        self.blocks_peak = self.blocks_peak.max(self.in_use - self.packed.in_use);
        self.of(name).add(bytes);
    }

    /// Counts bytes that were given back.
    pub(crate) fn remove(&mut self, name: &'static str, bytes: usize) {
        self.in_use -= bytes;
        self.of(name).in_use -= bytes;
    }

    /// Counts bytes that a thread keeps for packing from now on.
    pub(crate) fn add_packed(&mut self, name: &'static str, bytes: usize) {
        self.packed.add(bytes);
        self.add(name, bytes);
    }

    /// Counts bytes that a thread no longer keeps for packing.
    pub(crate) fn remove_packed(&mut self, name: &'static str, bytes: usize) {
        self.packed.in_use -= bytes;
        self.remove(name, bytes);
    }

    /// Sets the peaks to the bytes in use now. Only [`super::Count`] calls this, and it adds no packed bytes here.
    pub(crate) fn restart_peak(&mut self) {
        (self.peak, self.blocks_peak) = (self.in_use, self.in_use);
    }

    /// Returns everything that was counted. `mapped` and `fresh` are 0: the arena sets them.
    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            in_use: self.in_use,
            peak: self.peak,
            blocks_peak: self.blocks_peak,
            packed: self.packed,
            names: self.names.iter().copied().collect(),
            mapped: 0,
            fresh: 0,
        }
    }

    fn of(&mut self, name: &'static str) -> &mut MemoryUse {
        let index = self.names.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.names.push((name, MemoryUse::default()));
            self.names.len() - 1
        });
        &mut self.names[index].1
    }
}
