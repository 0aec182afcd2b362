//! Host memory from an arena, with names and a high-water mark.
//!
//! A training step allocates much the same again and again, and fresh pages cost a fault each (1 to 2.5 GB/s on a busy
//! machine). So a block is cut from the smallest gap of large mappings that holds it, and gaps that touch become one: whatever
//! the sizes of the next step, its blocks lie where those of the last one lay.

use crate::cpu::pages::{self, HUGE_PAGE};
use crate::{KernelError, Result};
use bytemuck::Pod;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Every block begins at a cache line and is whole cache lines.
const LINE: usize = 64;
/// A mapping is at least this large, and at least as large as all earlier ones together: pages that nobody touches cost nothing.
const MAPPING: usize = 256 << 20;
/// Live blocks and touched gaps together take at most 5/4 of the largest size that the live ones have had.
const KEEP: (usize, usize) = (5, 4);

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

impl MemoryReport {
    /// Counts bytes that were taken.
    pub(crate) fn add(&mut self, name: &'static str, bytes: usize) {
        self.in_use += bytes;
        self.peak = self.peak.max(self.in_use);
        self.blocks_peak = self.blocks_peak.max(self.in_use - self.packed.in_use);
        self.names.entry(name).or_default().add(bytes);
    }

    /// Counts bytes that were given back.
    pub(crate) fn remove(&mut self, name: &'static str, bytes: usize) {
        self.in_use -= bytes;
        self.names.get_mut(name).expect("counted when it was taken").in_use -= bytes;
    }
}

#[derive(Debug)]
pub(crate) struct Memory {
    device: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    report: MemoryReport,
    mappings: Vec<Mapping>,
    /// By mapping and offset.
    gaps: BTreeMap<Place, Gap>,
    /// The same by length.
    by_len: BTreeSet<(usize, Place)>,
    /// Bytes of the gaps that were touched, so that the system holds pages for them.
    touched: usize,
}

/// Memory from the system.
#[derive(Debug)]
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is owned; nothing about it is tied to the thread that made it, and the state hands out disjoint parts.
unsafe impl Send for Mapping {}

/// Where a block or a gap begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    mapping: usize,
    offset: usize,
}

/// A part of a mapping that nobody uses.
#[derive(Debug, Clone, Copy)]
struct Gap {
    len: usize,
    /// Its first bytes, which may have been written to. The others are zeros and may have no page.
    touched: usize,
}

/// An owned piece of host memory, handed back to its [`Memory`] on drop.
#[derive(Debug)]
pub(crate) struct Block {
    at: NonNull<u8>,
    place: Place,
    len: usize,
    name: &'static str,
    /// Whether it holds zeros because nobody has written to it.
    zeroed: bool,
    home: Arc<Memory>,
}

// SAFETY: a block is an owned part of a mapping; nothing about it is tied to the thread that took it.
unsafe impl Send for Block {}
// SAFETY: shared access reads no memory: it only copies the pointer and the flag.
unsafe impl Sync for Block {}

impl Memory {
    pub(crate) fn new(device: &'static str) -> Memory {
        Memory { device, state: Mutex::default() }
    }

    pub(crate) fn report(&self) -> MemoryReport {
        self.lock().report.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the memory lock panics")
    }

    /// Makes this thread one of the device's: the device's report contains the bytes that the thread holds outside the arena and
    /// counts from now on ([`Counted`]).
    pub(crate) fn adopt_this_thread(self: &Arc<Memory>) {
        HOME.set(Some(self.clone()));
    }

    /// Takes a block of at least `bytes` bytes, its content initialised but unspecified.
    pub(crate) fn take(self: &Arc<Memory>, name: &'static str, bytes: usize) -> Result<Block> {
        let mut state = self.lock();
        let refused = |in_use| KernelError::OutOfMemory { name, bytes, in_use, device: self.device };
        let len = block_len(bytes).ok_or_else(|| refused(state.report.in_use))?;
        let (place, zeroed) = state.cut(len).ok_or_else(|| refused(state.report.in_use))?;
        state.report.add(name, len);
        let at = state.mappings[place.mapping].at;
        // SAFETY: the gap that the block was cut from lay inside the mapping.
        let at = unsafe { at.add(place.offset) };
        Ok(Block { at, place, len, name, zeroed, home: self.clone() })
    }
}

impl State {
    /// Cuts a block out of the smallest gap that holds it, and tells whether it is all zeros. `None` if the system has no more
    /// memory.
    fn cut(&mut self, len: usize) -> Option<(Place, bool)> {
        let fitting = |state: &State| state.by_len.range((len, Place { mapping: 0, offset: 0 })..).next().copied();
        let (_, place) = match fitting(self) {
            Some(found) => found,
            None => {
                self.map(len)?;
                fitting(self).expect("the new mapping holds it")
            }
        };
        let gap = self.remove(place);
        if gap.touched < len {
            self.make_room(len - gap.touched);
            self.report.fresh += (len - gap.touched) as u64;
        }
        if gap.len > len {
            let rest = Place { offset: place.offset + len, ..place };
            self.insert(rest, Gap { len: gap.len - len, touched: gap.touched.saturating_sub(len) });
        }
        Some((place, gap.touched == 0))
    }

    /// Adds a new mapping as one large gap.
    fn map(&mut self, len: usize) -> Option<()> {
        let least = len.checked_next_multiple_of(HUGE_PAGE)?;
        let all: usize = self.mappings.iter().map(|mapping| mapping.len).sum();
        let wanted = least.max(all).max(MAPPING).next_multiple_of(HUGE_PAGE);
        let (at, len) = match pages::map(wanted) {
            Some(at) => (at, wanted),
            None => (pages::map(least)?, least),
        };
        self.mappings.push(Mapping { at, len });
        self.report.mapped += len;
        self.insert(Place { mapping: self.mappings.len() - 1, offset: 0 }, Gap { len, touched: 0 });
        Some(())
    }

    /// Gives the pages of the largest gaps back to the system until the rest fits beside the live blocks. Called before `len`
    /// more bytes are touched.
    fn make_room(&mut self, len: usize) {
        let live = self.report.in_use.saturating_add(len);
        let allowed = (live.max(self.report.peak) / KEEP.1).saturating_mul(KEEP.0);
        while live.saturating_add(self.touched) > allowed && self.touched > 0 {
            let largest = self.gaps.iter().max_by_key(|(_, gap)| gap.touched).map(|(place, _)| *place);
            let place = largest.expect("touched bytes are those of gaps");
            let gap = self.remove(place);
            // SAFETY: the gap lies in the mapping, and nobody uses it.
            let done = unsafe { pages::forget(self.mappings[place.mapping].at.add(place.offset), gap.touched) };
            self.insert(place, Gap { touched: if done { 0 } else { gap.touched }, ..gap });
            if !done {
                return;
            }
        }
    }

    fn insert(&mut self, place: Place, gap: Gap) {
        self.touched += gap.touched;
        self.by_len.insert((gap.len, place));
        self.gaps.insert(place, gap);
    }

    fn remove(&mut self, place: Place) -> Gap {
        let gap = self.gaps.remove(&place).expect("a gap of the lists");
        self.by_len.remove(&(gap.len, place));
        self.touched -= gap.touched;
        gap
    }

    /// Makes a block a gap again, and joins it with the gaps on both sides.
    fn free(&mut self, place: Place, len: usize) {
        let (mut place, mut gap) = (place, Gap { len, touched: len });
        let before = self.gaps.range(..place).next_back().map(|(at, gap)| (*at, gap.len));
        if let Some((at, before)) = before
            && at.mapping == place.mapping
            && at.offset + before == place.offset
        {
            let before = self.remove(at);
            gap = Gap { len: before.len + gap.len, touched: before.len + gap.touched };
            place = at;
        }
        let after = Place { offset: place.offset + gap.len, ..place };
        if self.gaps.contains_key(&after) {
            let after = self.remove(after);
            let touched = if after.touched > 0 { gap.len + after.touched } else { gap.touched };
            gap = Gap { len: gap.len + after.len, touched };
        }
        self.insert(place, gap);
    }
}

thread_local!(static HOME: RefCell<Option<Arc<Memory>>> = const { RefCell::new(None) });

/// Bytes that a thread of a device holds outside the arena. The device's report counts them as long as this lives; no report
/// counts those of a thread that belongs to no device.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    held: Option<(Arc<Memory>, &'static str, usize)>,
}

impl Counted {
    /// Sets the count to `bytes` under `name`.
    pub(crate) fn set(&mut self, name: &'static str, bytes: usize) {
        *self = Counted::default();
        let home = HOME.with_borrow(Clone::clone).inspect(|home| {
            let report = &mut home.lock().report;
            report.packed.add(bytes);
            report.add(name, bytes);
        });
        self.held = home.map(|home| (home, name, bytes));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((home, name, bytes)) = self.held.take() {
            let report = &mut home.lock().report;
            report.packed.in_use -= bytes;
            report.remove(name, bytes);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for Mapping { at, len } in self.mappings.drain(..) {
            // SAFETY: `map` made it with this length; every block holds the memory alive, so none is left.
            unsafe { pages::unmap(at, len) };
        }
    }
}

impl Block {
    /// Its first `len` elements.
    ///
    /// # Panics
    /// If the block is shorter.
    pub(crate) fn elements<T: Pod>(&mut self, len: usize) -> &mut [T] {
        assert!(len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= self.len), "{len} elements of the block");
        // SAFETY: the block is initialised, begins at a cache line and holds the bytes by the assertion; `T: Pod` allows any bits,
        // and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast::<T>(), len) }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Whether nobody has written to the block yet: it is all zeros, and its pages need not exist.
    pub(crate) fn is_zeroed(&self) -> bool {
        self.zeroed
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.home.lock();
        state.report.remove(self.name, self.len);
        state.free(self.place, self.len);
    }
}

/// Bytes that a block of `bytes` bytes takes. A size that no machine has is returned unchanged.
pub(crate) fn taken(bytes: usize) -> usize {
    block_len(bytes).unwrap_or(bytes)
}

/// Rounds up to whole cache lines. `None` for sizes that no machine has.
pub(crate) fn block_len(bytes: usize) -> Option<usize> {
    if bytes > isize::MAX as usize / 4 {
        return None; // so the roundings below cannot overflow
    }
    Some(bytes.next_multiple_of(LINE).max(LINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<Memory> {
        Arc::new(Memory::new("test"))
    }

    #[test]
    fn freed_memory_is_reused_and_counted_once() {
        let memory = memory();
        let first = memory.take("a", 5 << 20).unwrap();
        let address = first.as_ptr();
        assert!(first.is_zeroed());
        drop(first);
        assert_eq!(memory.report().in_use, 0);
        let second = memory.take("b", (5 << 20) - 100).unwrap();
        assert_eq!(second.as_ptr(), address);
        assert!(!second.is_zeroed(), "somebody may have written to it");
        assert_eq!(memory.report().names["a"].in_use, 0);
        assert_eq!(memory.report().names["a"].peak, 5 << 20);
        assert_eq!(memory.report().in_use, memory.report().names["b"].in_use);
    }

    #[test]
    fn gaps_that_touch_become_one() {
        let memory = memory();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut blocks = [1, 2, 3].map(|megabytes| memory.take("a", megabytes << 20).ok());
            let end = memory.take("end", 64).unwrap();
            let address = blocks[0].as_ref().unwrap().as_ptr();
            order.into_iter().for_each(|index| drop(blocks[index].take()));
            assert_eq!(memory.take("all", 6 << 20).unwrap().as_ptr(), address, "freed in the order {order:?}");
            drop(end);
            assert_eq!(memory.lock().gaps.len(), 1);
        }
    }

    /// Steps of different sizes touch no more memory than the largest of them and a quarter.
    #[test]
    fn steps_of_other_sizes_lie_in_the_same_memory() {
        let memory = memory();
        let step = |tokens: usize| {
            let saved: Vec<_> =
                (1..40).map(|layer| memory.take("saved", tokens * 1000 * (1 + layer % 3)).unwrap()).collect();
            for block in saved.into_iter().rev() {
                drop((memory.take("gradient", tokens * 3000).unwrap(), block));
            }
        };
        step(300);
        let peak = memory.report().peak;
        let touched = memory.lock().touched;
        for tokens in [7, 299, 120, 55, 250, 301, 180] {
            step(tokens);
        }
        assert!(memory.report().peak <= peak + peak / 100, "{} after {peak}", memory.report().peak);
        assert!(memory.lock().touched <= touched + peak / 4, "{} touched, {touched} before", memory.lock().touched);
        assert_eq!(memory.lock().gaps.len(), 1, "all is free");
    }

    #[test]
    fn pages_given_back_are_zeros_again() {
        let memory = memory();
        let bytes = (1 << 20) + 192;
        let _first = memory.take("first", 64).unwrap();
        let used = memory.take("used", bytes).unwrap();
        // SAFETY: the block holds `bytes` bytes and nobody else uses it.
        unsafe { std::slice::from_raw_parts_mut(used.as_ptr(), bytes).fill(7) };
        drop(used);
        memory.lock().make_room(0);
        assert!(memory.lock().touched > 0, "the peak allows it");
        memory.lock().report.peak = 0;
        memory.lock().make_room(0);
        assert_eq!(memory.lock().touched, 0);
        let again = memory.take("again", bytes).unwrap();
        // SAFETY: as above.
        let content = unsafe { std::slice::from_raw_parts(again.as_ptr(), bytes) };
        assert!(again.is_zeroed() && content.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn used_memory_is_not_fresh() {
        let memory = memory();
        drop(memory.take("a", 5 << 20).unwrap());
        assert_eq!(memory.report().fresh, 5 << 20);
        drop(memory.take("a", 3 << 20).unwrap());
        assert_eq!(memory.report().fresh, 5 << 20, "the first block's pages are there");
        drop(memory.take("a", 6 << 20).unwrap());
        assert_eq!((memory.report().fresh, memory.report().mapped), (6 << 20, MAPPING));
    }

    #[test]
    fn what_a_thread_tells_of_is_in_its_devices_report() {
        let memory = memory();
        let other = Arc::clone(&memory);
        let thread = std::thread::spawn(move || {
            let mut counted = Counted::default();
            counted.set("packed", 100);
            assert_eq!(other.report().in_use, 0, "the thread is no device's");
            other.adopt_this_thread();
            counted.set("packed", 300);
            counted.set("packed", 500);
            let report = other.report();
            assert_eq!((report.in_use, report.peak, report.blocks_peak), (500, 500, 0));
        });
        thread.join().unwrap();
        assert_eq!((memory.report().in_use, memory.report().names["packed"].peak), (0, 500));
    }

    #[test]
    fn every_block_is_aligned_and_zero_when_fresh() {
        let memory = memory();
        for bytes in [0, 1, 63, 65, 4097, 1 << 20, MAPPING - 1, MAPPING + 1] {
            let before = memory.report().in_use;
            let block = memory.take("a", bytes).unwrap();
            assert_eq!(block.as_ptr().addr() % LINE, 0, "{bytes} bytes");
            let size = memory.report().in_use - before;
            assert!(size >= bytes && size <= bytes + LINE, "{size} for {bytes}");
            // SAFETY: the block holds `bytes` bytes and nobody else uses it.
            let content = unsafe { std::slice::from_raw_parts(block.as_ptr(), bytes.min(1 << 20)) };
            assert!(block.is_zeroed() && content.iter().all(|byte| *byte == 0));
            std::mem::forget(block); // the next one must be fresh
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
