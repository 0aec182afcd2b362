//! Host memory in reusable blocks, with names and a high-water mark.
//!
//! A training step allocates the same sizes again and again. Fresh pages cost a fault each (1 to 2.5 GB/s on a busy machine),
//! so a freed block is kept and handed out again to a request of nearly its size.

use crate::{KernelError, Result};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Blocks of at least this size are aligned to it and may be backed by huge pages.
const HUGE: usize = 2 << 20;
/// A kept block serves a request of at least 3/4 of its size: less would hide memory, more would miss too often.
const FIT: (usize, usize) = (3, 4);

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
    /// Free blocks by size.
    free: BTreeMap<usize, Vec<Raw>>,
    free_bytes: usize,
}

#[derive(Debug)]
struct Raw {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a Raw is an owned allocation; nothing about it is tied to the thread that made it.
unsafe impl Send for Raw {}
// SAFETY: as above; shared access reads no memory, it only copies the pointer.
unsafe impl Sync for Raw {}

/// An owned piece of host memory, handed back to its [`Memory`] on drop.
#[derive(Debug)]
pub(super) struct Block {
    raw: Option<Raw>,
    /// Bytes counted for this block, under this name.
    bytes: usize,
    name: &'static str,
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
        let layout = layout_for(bytes);
        let mut state = self.lock();
        let largest = layout.size() / FIT.0 * FIT.1;
        let found = state.free.range(layout.size()..=largest.max(layout.size())).next().map(|(size, _)| *size);
        let raw = match found {
            Some(size) => state.pop(size),
            None => {
                // Kept blocks that fit nothing must not pile up beside the live ones.
                if state.free_bytes + layout.size() > state.report.peak / 2 {
                    state.release_free();
                }
                let allocated = allocate(layout).or_else(|| {
                    state.release_free();
                    allocate(layout)
                });
                allocated.ok_or(KernelError::OutOfMemory {
                    name,
                    bytes,
                    in_use: state.report.in_use,
                    device: self.device,
                })?
            }
        };
        let counted = raw.layout.size();
        state.count(name, counted);
        Ok(Block { raw: Some(raw), bytes: counted, name, home: self.clone() })
    }
}

impl State {
    fn pop(&mut self, size: usize) -> Raw {
        let list = self.free.get_mut(&size).expect("`take` found this size");
        let raw = list.pop().expect("empty lists are removed");
        if list.is_empty() {
            self.free.remove(&size);
        }
        self.free_bytes -= size;
        raw
    }

    fn release_free(&mut self) {
        for raw in std::mem::take(&mut self.free).into_values().flatten() {
            // SAFETY: the block was allocated with exactly this layout and nobody holds it.
            unsafe { std::alloc::dealloc(raw.at.as_ptr(), raw.layout) };
        }
        self.free_bytes = 0;
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
        self.release_free();
    }
}

impl Block {
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.raw.as_ref().expect("the block is live until it is dropped").at.as_ptr()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let raw = self.raw.take().expect("dropped once");
        let mut state = self.home.lock();
        state.report.in_use -= self.bytes;
        state.report.names.get_mut(self.name).expect("counted when it was taken").in_use -= self.bytes;
        state.free_bytes += raw.layout.size();
        state.free.entry(raw.layout.size()).or_default().push(raw);
    }
}

/// Sizes are rounded up so that batches of slightly different lengths share blocks.
fn layout_for(bytes: usize) -> Layout {
    let (size, align) = if bytes >= HUGE {
        let step = (bytes.next_power_of_two() / 16).max(HUGE);
        (bytes.next_multiple_of(step), HUGE)
    } else {
        (bytes.next_multiple_of(64).max(64), 64)
    };
    Layout::from_size_align(size, align).expect("the size was rounded from a size that fits")
}

/// Zeroed by the operating system, so that the content is initialised.
fn allocate(layout: Layout) -> Option<Raw> {
    // SAFETY: `layout_for` never gives a zero size.
    let at = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
    #[cfg(target_os = "linux")]
    if layout.size() >= HUGE {
        // SAFETY: the range is ours and page-aligned; the advice changes no content and its failure does not matter.
        unsafe { libc::madvise(at.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    Some(Raw { at, layout })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_blocks_are_reused_and_counted_once() {
        let memory = Arc::new(Memory::new("test"));
        let first = memory.take("a", 5 << 20).unwrap();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(memory.report().in_use, 0);
        let second = memory.take("b", (5 << 20) - 100).unwrap();
        assert_eq!(second.as_ptr(), address, "a block of the same size class is handed out again");
        assert_eq!(memory.report().names["a"].in_use, 0);
        assert_eq!(memory.report().in_use, memory.report().peak);
    }

    #[test]
    fn a_size_beyond_the_machine_is_an_error() {
        let memory = Arc::new(Memory::new("test"));
        let error = memory.take("huge", 1 << 60).unwrap_err();
        assert!(matches!(error, KernelError::OutOfMemory { name: "huge", .. }), "{error}");
    }
}
