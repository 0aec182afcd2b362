//! What a device's memory is used for, by name.

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
    /// Bytes in use and their peak under each name. A step takes thousands of blocks, and a name of a short list is found at once.
    pub names: Vec<(&'static str, MemoryUse)>,
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
    pub(crate) fn add(&mut self, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
    }
}

impl MemoryReport {
    /// Returns what was counted under a name.
    pub fn of(&self, name: &str) -> MemoryUse {
        self.names.iter().find(|(known, _)| *known == name).map_or_else(MemoryUse::default, |(_, used)| *used)
    }

    /// Counts bytes that were taken.
    pub(crate) fn add(&mut self, name: &'static str, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
        self.blocks_peak = self.blocks_peak.max(self.in_use - self.packed.in_use);
        match self.names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, used)) => used.add(bytes),
            None => self.names.push((name, MemoryUse { in_use: bytes, peak: bytes })),
        }
    }

    /// Counts bytes that were given back.
    pub(crate) fn remove(&mut self, name: &'static str, bytes: usize) {
        self.in_use -= bytes;
        let used = self.names.iter_mut().find(|(known, _)| *known == name);
        used.expect("counted when it was taken").1.in_use -= bytes;
    }
}
