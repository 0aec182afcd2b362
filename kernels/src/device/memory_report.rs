//! What a device's memory is used for, by name.

use std::collections::BTreeMap;

/// What a device's memory is used for.
#[derive(Debug, Clone, Default)]
pub struct MemoryReport {
    /// Bytes in live buffers.
    pub in_use: usize,
    /// Largest value that `in_use` has had.
    pub peak: usize,
    /// The same without `packed`, whose share of the peak differs from run to run.
    pub blocks_peak: usize,
    /// Bytes in use that threads keep for packing, in no block.
    pub packed: MemoryUse,
    /// Live and largest bytes of each name, by name.
    pub names: BTreeMap<&'static str, MemoryUse>,
    /// Bytes that the system has mapped for the arena. Only those that were touched have pages.
    pub mapped: usize,
    /// Bytes of all blocks so far that nobody had touched yet, so that the system had to find pages for them. A step that needs no
    /// more memory than earlier ones leaves it unchanged.
    pub fresh: u64,
}

/// Bytes under one name.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryUse {
    /// In live buffers.
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

/// The bytes of a [`MemoryReport`] while they change. A step takes thousands of blocks, so a name is looked up in a short list.
#[derive(Debug, Default)]
pub(crate) struct MemoryCount {
    /// As in the report.
    pub in_use: usize,
    /// As in the report.
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

    /// Makes what is in use now the peak.
    pub(crate) fn restart_peak(&mut self) {
        (self.peak, self.blocks_peak) = (self.in_use, self.in_use);
    }

    /// Everything that was counted. It knows of no mapping.
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
