//! A device that counts and computes nothing. It tells what a pass needs on another device, before the pass runs there.
//!
//! On this device a buffer is a length and a name. A kernel checks its arguments and adds its [`Cost`]. Downloads return zeros.

use super::Device;
use super::memory_report::MemoryReport;
use crate::Result;
use crate::arena::{taken, taken_on_card};
use crate::cpu::Cpu;
use crate::cuda::Cuda;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the memory and the operations that calls would take on another device. Computes nothing.
#[derive(Debug)]
pub struct Count {
    of: Counted,
    counts: Arc<Mutex<Counts>>,
}

/// The device whose calls are counted.
#[derive(Debug, Clone)]
pub(super) enum Counted {
    Cpu(Arc<Cpu>),
    Cuda(Arc<Cuda>),
}

#[derive(Debug, Default)]
struct Counts {
    memory: MemoryReport,
    operations: f64,
    /// Bytes that the threads keep for packing after the calls so far.
    packed: Packed,
}

/// What a call costs: its operations, and its memory beside that of its arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    /// Multiplications and additions of its matrix products. A multiply-add counts as two.
    pub operations: f64,
    /// Largest number of bytes, beside its arguments, that the call holds at once.
    pub scratch: usize,
    /// Bytes that the threads keep for packing after this call and after calls like it with fewer rows.
    pub packed: Packed,
}

/// Bytes that threads keep for packing. Each thread has three areas. An area is as large as any call so far has needed it to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes that the tasks of a call share. The calling thread keeps them.
    pub(crate) shared: usize,
    /// Bytes of each area of the calling thread.
    pub(crate) of_caller: [usize; 3],
    /// Bytes of each area of every other thread.
    pub(crate) of_others: [usize; 3],
}

impl Cost {
    /// Returns the cost of a call that needs no memory beside its arguments.
    pub(crate) fn of_operations(operations: f64) -> Cost {
        Cost { operations, ..Cost::default() }
    }
}

impl Packed {
    /// Returns the bytes that the threads keep after a call in which the calling thread needs `areas`. The other threads need as
    /// much if the call is parallel, and nothing otherwise.
    pub(crate) fn areas(areas: [usize; 3], is_parallel: bool) -> Packed {
        Packed { shared: 0, of_caller: areas, of_others: if is_parallel { areas } else { [0; 3] } }
    }

    /// Returns the bytes that the threads keep after the calls of `self` and of `other`: each area has the larger of its two
    /// sizes. In total this can be more than after either call alone.
    pub fn and(self, other: Packed) -> Packed {
        let larger = |one: [usize; 3], other: [usize; 3]| [0, 1, 2].map(|area| one[area].max(other[area]));
        Packed {
            shared: self.shared.max(other.shared),
            of_caller: larger(self.of_caller, other.of_caller),
            of_others: larger(self.of_others, other.of_others),
        }
    }

    /// Bytes of all areas if `threads` threads have run tasks.
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
    /// Makes a device that counts what calls would take on `of`.
    pub(super) fn new(of: Counted) -> Count {
        Count { of, counts: Arc::default() }
    }

    /// Makes a device that counts the calls of the same device as `self`, with nothing counted yet.
    pub(super) fn again(&self) -> Count {
        Count::new(self.of.clone())
    }

    /// The processor whose calls are counted. `None` for a card.
    pub(crate) fn cpu(&self) -> Option<&Cpu> {
        match &self.of {
            Counted::Cpu(cpu) => Some(cpu),
            Counted::Cuda(_) => None,
        }
    }

    /// The device whose calls are counted.
    pub(super) fn of(&self) -> Device {
        match &self.of {
            Counted::Cpu(cpu) => Device::Cpu(cpu.clone()),
            Counted::Cuda(cuda) => Device::Cuda(cuda.clone()),
        }
    }

    /// Counts a block of `bytes` bytes, rounded up as in the arena, until it is dropped.
    pub(super) fn take(&self, name: &'static str, bytes: usize) -> CountedBlock {
        // a size that no machine has is counted too: the plan that compares the count with its limit refuses it
        let bytes = match self.of {
            Counted::Cpu(_) => taken(bytes),
            Counted::Cuda(_) => taken_on_card(bytes),
        };
        lock(&self.counts).memory.add(name, bytes);
        CountedBlock { counts: self.counts.clone(), name, bytes }
    }

    /// Counts a call of a kernel. Always returns `Ok`.
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
        lock(&self.counts).memory.clone()
    }

    /// Multiplications and additions of the matrix products of all calls so far.
    pub fn operations(&self) -> f64 {
        lock(&self.counts).operations
    }

    /// Bytes that the threads keep for packing after the calls so far. The memory report does not contain them.
    pub fn packed(&self) -> Packed {
        lock(&self.counts).packed
    }

    /// Bytes in use.
    pub fn in_use(&self) -> usize {
        lock(&self.counts).memory.in_use
    }

    /// Largest number of bytes that were in use at once.
    pub fn peak(&self) -> usize {
        lock(&self.counts).memory.peak
    }

    /// Starts counting anew: sets the operations and the packed bytes to 0, and the peak to the bytes in use now.
    pub fn restart(&self) {
        let mut counts = lock(&self.counts);
        (counts.memory.peak, counts.memory.blocks_peak) = (counts.memory.in_use, counts.memory.in_use);
        (counts.operations, counts.packed) = (0.0, Packed::default());
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // the counts are plain numbers: a thread that panicked while it held the lock cannot have left them invalid
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for CountedBlock {
    fn drop(&mut self) {
        lock(&self.counts).memory.remove(self.name, self.bytes);
    }
}
