//! A device that counts and computes nothing. It tells what a pass takes on the processor before it runs there.
//!
//! A buffer is a length and a name. A kernel checks its arguments and adds its [`Cost`]. Downloads are zeros.

use super::memory_report::{MemoryCount, MemoryReport};
use crate::Result;
use crate::arena::taken;
use crate::cpu::Cpu;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Count {
    /// The processor whose calls are counted.
    of: Arc<Cpu>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    memory: MemoryCount,
    operations: f64,
    /// What the threads keep after the calls so far.
    packed: Packed,
}

/// What a call takes beside its arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Multiplications and additions of its products.
    pub operations: f64,
    /// Bytes that it holds at most while it runs.
    pub scratch: usize,
    /// What the threads keep for later calls, after this call and calls of fewer rows.
    pub packed: Packed,
}

/// Bytes that threads keep for packing. An area of a thread has the size of the largest call that has used it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// What the tasks of a call share. The calling thread keeps it.
    pub(crate) shared: usize,
    /// The areas of the calling thread.
    pub(crate) of_caller: [usize; 3],
    /// The areas of each other thread.
    pub(crate) of_others: [usize; 3],
}

impl Packed {
    /// Areas of the calling thread, and of the others if the call has tasks for them.
    pub(crate) fn areas(areas: [usize; 3], is_parallel: bool) -> Packed {
        Packed { shared: 0, of_caller: areas, of_others: if is_parallel { areas } else { [0; 3] } }
    }

    /// What is kept after both: often more than after either.
    pub fn and(self, other: Packed) -> Packed {
        let larger = |one: [usize; 3], other: [usize; 3]| [0, 1, 2].map(|area| one[area].max(other[area]));
        Packed {
            shared: self.shared.max(other.shared),
            of_caller: larger(self.of_caller, other.of_caller),
            of_others: larger(self.of_others, other.of_others),
        }
    }

    /// Bytes of all areas, if `threads` threads have taken tasks.
    pub fn bytes(self, threads: usize) -> usize {
        let sum = |areas: [usize; 3]| areas.iter().sum::<usize>();
        self.shared + sum(self.of_caller) + (threads - 1) * sum(self.of_others)
    }
}

/// A block of memory that is counted but does not exist.
#[derive(Debug)]
pub(super) struct CountedBlock {
    counts: Arc<Mutex<Counts>>,
    name: &'static str,
    bytes: usize,
}

impl Count {
    /// Counts what calls take on `of`.
    pub(super) fn new(of: Arc<Cpu>) -> Count {
        Count { of, counts: Arc::default() }
    }

    /// The same device with nothing counted yet.
    pub(super) fn again(&self) -> Count {
        Count::new(self.of.clone())
    }

    /// The processor whose calls are counted.
    pub(crate) fn of(&self) -> &Cpu {
        &self.of
    }

    /// Counts a block of `bytes` bytes, rounded up as in the arena, until it is dropped.
    pub(super) fn take(&self, name: &'static str, bytes: usize) -> CountedBlock {
        // a size that no machine has is counted too: a comparison with a limit refuses it
        let bytes = taken(bytes);
        lock(&self.counts).memory.add(name, bytes);
        CountedBlock { counts: self.counts.clone(), name, bytes }
    }

    /// Counts a call of a kernel. It is never refused.
    pub(crate) fn call(&self, kernel: &'static str, cost: Cost) -> Result<()> {
        let mut counts = lock(&self.counts);
        counts.operations += cost.operations;
        if cost.scratch > 0 {
            counts.memory.add(kernel, cost.scratch);
            counts.memory.remove(kernel, cost.scratch);
        }
        counts.packed = counts.packed.and(cost.packed);
        Ok(())
    }

    pub(super) fn report(&self) -> MemoryReport {
        lock(&self.counts).memory.report()
    }

    /// Operations of the products of all calls so far; a multiplication and an addition are two.
    pub fn operations(&self) -> f64 {
        lock(&self.counts).operations
    }

    /// What the device's threads keep for packing after the calls so far. The memory report does not contain it.
    pub fn packed(&self) -> Packed {
        lock(&self.counts).packed
    }

    /// Bytes in use.
    pub fn in_use(&self) -> usize {
        lock(&self.counts).memory.in_use
    }

    /// The most bytes that were in use.
    pub fn peak(&self) -> usize {
        lock(&self.counts).memory.peak
    }

    /// Starts to count anew: nothing has been computed or packed, and the peak is what is in use now.
    pub fn restart(&self) {
        let mut counts = lock(&self.counts);
        counts.memory.restart_peak();
        (counts.operations, counts.packed) = (0.0, Packed::default());
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // the counts are whole numbers: a thread that panicked with the lock has left them sound
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for CountedBlock {
    fn drop(&mut self) {
        lock(&self.counts).memory.remove(self.name, self.bytes);
    }
}
