//! Host memory in reusable blocks, with names and a high-water mark.
//!
//! A training step allocates the same sizes again and again. Fresh pages cost a fault each (1 to 2.5 GB/s on a busy machine),
//! so a freed block is kept and handed out again to a request of nearly its size.

use super::pages::{self, HUGE_PAGE};
use crate::{KernelError, Result};
use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Blocks of at least this size are mapped pages; smaller ones come from the standard library's allocator.
const MAPPED: usize = 1 << 20;
/// Blocks of at least this size are whole huge pages: rounding up to them costs at most an eighth from here on.
const HUGE: usize = 16 << 20;
/// Every block begins at a cache line.
const LINE: usize = 64;
/// A kept block serves a request of at least 3/4 of its size: less would hide memory, more would miss too often.
const FIT: (usize, usize) = (3, 4);
/// Live and kept blocks together take at most 5/4 of the largest size that the live ones have had.
const KEEP: (usize, usize) = (5, 4);

/// What a device's memory is used for.
#[derive(Debug, Clone, Default)]
pub struct MemoryReport {
    /// Bytes in live buffers.
    pub in_use: usize,
    /// Largest value that `in_use` has had.
    pub peak: usize,
    /// Live and largest bytes of each name, by name.
    pub names: BTreeMap<&'static str, MemoryUse>,
}

/// Bytes under one name.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryUse {
    pub in_use: usize,
    pub peak: usize,
}

#[derive(Debug)]
pub(super) struct Memory {
    device: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    report: MemoryReport,
    /// Free blocks by size, the longest unused first.
    free: BTreeMap<usize, VecDeque<Free>>,
    free_bytes: usize,
    /// Blocks freed so far.
    freed: u64,
}

/// A block that waits for its next use.
#[derive(Debug)]
struct Free {
    raw: Raw,
    /// Blocks that were freed before it.
    since: u64,
}

/// An owned allocation of a [`size_class`].
#[derive(Debug)]
struct Raw {
    at: NonNull<u8>,
    size: usize,
}

// SAFETY: a Raw is an owned allocation; nothing about it is tied to the thread that made it.
unsafe impl Send for Raw {}
// SAFETY: as above; shared access reads no memory, it only copies the pointer.
unsafe impl Sync for Raw {}

/// An owned piece of host memory, handed back to its [`Memory`] on drop.
#[derive(Debug)]
pub(super) struct Block {
    raw: Option<Raw>,
    name: &'static str,
    /// Whether nobody has written to it: it holds zeros.
    zeroed: bool,
    home: Arc<Memory>,
}

impl Memory {
    pub(super) fn new(device: &'static str) -> Memory {
        Memory { device, state: Mutex::default() }
    }

    pub(super) fn report(&self) -> MemoryReport {
        self.lock().report.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the memory lock panics")
    }

    /// A block of at least `bytes` bytes, its content initialised but unspecified.
    pub(super) fn take(self: &Arc<Memory>, name: &'static str, bytes: usize) -> Result<Block> {
        let mut state = self.lock();
        let refused = |in_use| KernelError::OutOfMemory { name, bytes, in_use, device: self.device };
        let size = size_class(bytes).ok_or_else(|| refused(state.report.in_use))?;
        let kept = state.reuse(size);
        let zeroed = kept.is_none();
        let raw = match kept {
            Some(raw) => raw,
            None => {
                state.make_room(size);
                let allocated = allocate(size).or_else(|| {
                    state.release(0);
                    allocate(size)
                });
                allocated.ok_or_else(|| refused(state.report.in_use))?
            }
        };
        state.count(name, raw.size);
        Ok(Block { raw: Some(raw), name, zeroed, home: self.clone() })
    }
}

impl State {
    /// The smallest kept block that fits, and of its size the one used last, which may still be in a cache.
    fn reuse(&mut self, size: usize) -> Option<Raw> {
        let largest = size.max(size / FIT.0 * FIT.1);
        let (&found, list) = self.free.range_mut(size..=largest).next()?;
        let raw = list.pop_back().expect("empty lists are removed").raw;
        if list.is_empty() {
            self.free.remove(&found);
        }
        self.free_bytes -= raw.size;
        Some(raw)
    }

    /// Before `size` new bytes are taken from the system: blocks that fit nothing must not pile up beside the live ones.
    fn make_room(&mut self, size: usize) {
        let live = self.report.in_use.saturating_add(size);
        let allowed = (live.max(self.report.peak) / KEEP.1).saturating_mul(KEEP.0);
        self.release(allowed.saturating_sub(live));
    }

    /// Gives the longest unused blocks back to the system until at most `keep` bytes of them are left.
    fn release(&mut self, keep: usize) {
        while self.free_bytes > keep {
            let oldest = self.free.iter().min_by_key(|(_, list)| list.front().map(|free| free.since));
            let size = *oldest.expect("free_bytes counts the blocks of the lists").0;
            let list = self.free.get_mut(&size).expect("just found");
            let raw = list.pop_front().expect("empty lists are removed").raw;
            if list.is_empty() {
                self.free.remove(&size);
            }
            self.free_bytes -= raw.size;
            deallocate(raw);
        }
    }

    fn count(&mut self, name: &'static str, bytes: usize) {
        let report = &mut self.report;
        report.in_use += bytes;
        report.peak = report.peak.max(report.in_use);
        let named = report.names.entry(name).or_default();
        named.in_use += bytes;
        named.peak = named.peak.max(named.in_use);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.release(0);
    }
}

impl Block {
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.raw.as_ref().expect("the block is live until it is dropped").at.as_ptr()
    }

    /// Whether the block came fresh from the system: all zeros, and its pages are not there yet.
    pub(super) fn is_zeroed(&self) -> bool {
        self.zeroed
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let raw = self.raw.take().expect("dropped once");
        let mut state = self.home.lock();
        state.report.in_use -= raw.size;
        state.report.names.get_mut(self.name).expect("counted when it was taken").in_use -= raw.size;
        state.free_bytes += raw.size;
        state.freed += 1;
        let since = state.freed;
        state.free.entry(raw.size).or_default().push_back(Free { raw, since });
    }
}

/// Sizes are rounded up by at most an eighth, or to 64 bytes, so that batches of slightly different lengths share blocks. None
/// for sizes that no machine has.
fn size_class(bytes: usize) -> Option<usize> {
    if bytes > isize::MAX as usize / 4 {
        return None; // and the roundings below cannot overflow
    }
    let step = (bytes.next_power_of_two() / 16).max(LINE);
    let step = if bytes >= HUGE { step.max(HUGE_PAGE) } else { step };
    Some(bytes.next_multiple_of(step).max(LINE))
}

fn align_of(size: usize) -> usize {
    if size >= HUGE { HUGE_PAGE } else { LINE }
}

fn layout_of(size: usize) -> Layout {
    Layout::from_size_align(size, align_of(size)).expect("`size_class` gives sizes far below isize::MAX")
}

/// Zeros, so that the content is initialised.
fn allocate(size: usize) -> Option<Raw> {
    let at = if size >= MAPPED {
        pages::map(size, align_of(size))
    } else {
        // SAFETY: a size class is never zero.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout_of(size)) })
    };
    at.map(|at| Raw { at, size })
}

fn deallocate(raw: Raw) {
    // SAFETY: `allocate` made it, in the same way for the same size; a Raw is owned, so nobody uses it.
    unsafe {
        if raw.size >= MAPPED {
            pages::unmap(raw.at, raw.size, align_of(raw.size));
        } else {
            std::alloc::dealloc(raw.at.as_ptr(), layout_of(raw.size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new("test"))
    }

    #[test]
    fn freed_blocks_are_reused_and_counted_once() {
        let memory = memory();
        let first = memory.take("a", 5 << 20).unwrap();
        let address = first.as_ptr();
        assert!(first.is_zeroed());
        drop(first);
        assert_eq!(memory.report().in_use, 0);
        let second = memory.take("b", (5 << 20) - 100).unwrap();
        assert_eq!(second.as_ptr(), address, "a block of the same size class is handed out again");
        assert!(!second.is_zeroed(), "somebody may have written to it");
        assert_eq!(memory.report().names["a"].in_use, 0);
        assert_eq!(memory.report().names["a"].peak, memory.report().names["b"].in_use);
        assert_eq!(memory.report().in_use, memory.report().peak);
    }

    #[test]
    fn a_kept_block_serves_requests_from_three_quarters_of_its_size() {
        // rounded up to 2816, 3072, 4096 and 4608 bytes
        for (bytes, served) in [(2800, false), (3072, true), (4096, true), (4097, false)] {
            let memory = memory();
            drop(memory.take("a", 4096).unwrap());
            let other = memory.take("b", bytes).unwrap();
            assert_eq!(!other.is_zeroed(), served, "{bytes} bytes");
        }
    }

    #[test]
    fn kept_blocks_take_at_most_a_quarter_of_the_peak_beside_the_live_ones() {
        let memory = memory();
        for megabytes in 2..40 {
            // each size is new, so each block is too; the largest so far is the peak
            drop(memory.take("growing", megabytes << 20).unwrap());
            let state = memory.lock();
            assert!(state.free_bytes <= state.report.peak / 4 * 5, "{} kept", state.free_bytes);
            let counted: usize = state.free.values().flatten().map(|free| free.raw.size).sum();
            assert_eq!(counted, state.free_bytes);
        }
    }

    #[test]
    fn the_longest_unused_block_is_given_back_first() {
        let memory = memory();
        let blocks = [8, 4, 2].map(|megabytes| memory.take("live", megabytes << 20).unwrap());
        let [eight, four, two] = blocks;
        drop(four);
        drop(eight);
        drop(two);
        memory.lock().release(10 << 20);
        let left: Vec<usize> = memory.lock().free.keys().map(|size| size >> 20).collect();
        assert_eq!(left, [2, 8], "4 MiB were freed first, and 10 MiB may stay");
    }

    #[test]
    fn every_block_is_aligned_and_zero_when_fresh() {
        let memory = memory();
        for bytes in [0, 1, 63, 65, 4097, MAPPED - 1, MAPPED, HUGE - 1, HUGE, HUGE + 1] {
            let block = memory.take("a", bytes).unwrap();
            let align = if bytes >= HUGE { HUGE_PAGE } else { 64 };
            assert_eq!(block.as_ptr().addr() % align, 0, "{bytes} bytes");
            let size = memory.report().in_use;
            assert!(size >= bytes && size <= bytes + (bytes / 8).max(64), "{size} for {bytes}");
            // SAFETY: the block holds `bytes` bytes and nobody else uses it.
            let content = unsafe { std::slice::from_raw_parts(block.as_ptr(), bytes) };
            assert!(block.is_zeroed() && content.iter().all(|byte| *byte == 0));
            drop(block);
            memory.lock().release(0);
        }
    }

    #[test]
    fn a_size_beyond_the_machine_is_an_error() {
        let memory = memory();
        let live = memory.take("live", 1 << 20).unwrap();
        for bytes in [1 << 60, isize::MAX as usize, usize::MAX - 1, usize::MAX] {
            let error = memory.take("huge", bytes).unwrap_err();
            let want = KernelError::OutOfMemory { name: "huge", bytes, in_use: 1 << 20, device: "test" };
            assert_eq!(error, want);
        }
        drop(live);
        assert_eq!(memory.report().in_use, 0, "a refusal counts nothing");
    }

    /// Blocks that are live at the same time never overlap, whichever threads take and free them.
    #[test]
    fn threads_share_the_memory() {
        let memory = memory();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let memory = &memory;
                scope.spawn(move || {
                    let mut live = Vec::new();
                    for i in 0..200usize {
                        let bytes = 1 + (i * 7919 + usize::from(thread) * 104_729) % 5000;
                        let block = memory.take("a", bytes).unwrap();
                        // SAFETY: the block holds `bytes` bytes and this thread owns it.
                        unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), bytes).fill(thread) };
                        live.push((block, bytes));
                        if i % 3 == 2 {
                            let (block, bytes) = live.swap_remove(i % live.len());
                            // SAFETY: as above.
                            let content = unsafe { std::slice::from_raw_parts(block.as_ptr(), bytes) };
                            assert!(content.iter().all(|byte| *byte == thread), "another thread wrote here");
                        }
                    }
                });
            }
        });
        assert_eq!(memory.report().in_use, 0);
    }
}
