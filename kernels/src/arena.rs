//! An arena of memory, of the host or of a GPU, which counts its blocks by name and keeps their peak.
//!
//! Every training step allocates much the same sizes, and each fresh page costs a page fault (1 to 2.5 GB/s on a busy machine).
//! So the arena holds large mappings. It cuts a block from the smallest gap that is large enough, and joins gaps that touch. The
//! blocks of a step then reuse the pages of the step before, whatever their sizes.

use crate::cpu::pages::{self, HUGE_PAGE};
use crate::cuda::Context;
use crate::device::memory_report::MemoryReport;
use crate::{KernelError, Result};
use bytemuck::Pod;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Bytes of a cache line. A block in host memory begins at a cache line and is a whole number of cache lines.
const LINE: usize = 64;
/// Alignment of the driver's allocations, in bytes. A block on a card has this alignment and is a whole number of such pieces.
const CARD_LINE: usize = 256;
/// A new host mapping has at least this many bytes, and at least as many as all earlier mappings together: pages that nobody
/// touches cost nothing. If the system refuses so much, the mapping has only what the block needs.
const MAPPING: usize = 256 << 20;
/// Live blocks and touched gaps together take at most 5/4 of the peak of the live blocks.
const KEEP: (usize, usize) = (5, 4);

/// Where mappings come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The system. Fresh pages are zeros, and can be given back.
    Host,
    /// The memory of a GPU. Its content at first is arbitrary.
    Card(Arc<Context>),
    /// The memory of a GPU, with a separate allocation for each block, so that a checker knows where a block ends.
    Apart(Arc<Context>),
}

impl Source {
    /// Returns the number of bytes that the start and the length of every block are multiples of.
    fn line(&self) -> usize {
        if self.is_host() { LINE } else { CARD_LINE }
    }

    fn is_host(&self) -> bool {
        matches!(self, Source::Host)
    }
}

/// A mapping of a card has at least this many bytes. Loading reserves what the weights need, and a run what its plan needs, so few
/// mappings are as small.
const CARD_MAPPING: usize = 32 << 20;

#[derive(Debug)]
pub(crate) struct Memory {
    device: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    source: Source,
    report: MemoryReport,
    mappings: Vec<Mapping>,
    /// In the order of their places. A step leaves dozens of gaps: sorted lists are several times faster than trees here.
    gaps: Vec<Gap>,
    /// The length and the place of each gap, shortest first.
    by_len: Vec<(usize, Place)>,
    /// Touched bytes of all gaps: the system holds pages for them.
    touched: usize,
}

/// A piece of memory from the [`Source`].
#[derive(Debug)]
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Mapping` owns its memory and is not tied to the thread that made it, and the state hands out disjoint parts.
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
    place: Place,
    len: usize,
    /// How many bytes at its start may have been written to. The other bytes are zeros and may have no page.
    touched: usize,
}

/// An owned piece of memory, which goes back to its [`Memory`] on drop.
#[derive(Debug)]
pub(crate) struct Block {
    at: NonNull<u8>,
    place: Place,
    len: usize,
    name: &'static str,
    /// Whether its bytes were all zeros when it was taken, because nobody had written to them.
    zeroed: bool,
    home: Arc<Memory>,
}

// SAFETY: a block is an owned part of a mapping; nothing about it is tied to the thread that took it.
unsafe impl Send for Block {}
// SAFETY: shared access reads no memory: it only copies the pointer and the flag.
unsafe impl Sync for Block {}

impl Memory {
    pub(crate) fn new(device: &'static str) -> Memory {
        Memory::of(device, Source::Host)
    }

    pub(crate) fn of(device: &'static str, source: Source) -> Memory {
        let state = State {
            source,
            report: MemoryReport::default(),
            mappings: Vec::new(),
            gaps: Vec::new(),
            by_len: Vec::new(),
            touched: 0,
        };
        Memory { device, state: Mutex::new(state) }
    }

    pub(crate) fn report(&self) -> MemoryReport {
        self.lock().report.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the memory lock panics")
    }

    /// Maps what is missing until all blocks together can have `bytes` bytes, in one piece and no more than that.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`]; [`KernelError::Driver`].
    pub(crate) fn reserve(&self, name: &'static str, bytes: usize) -> Result<()> {
        let mut state = self.lock();
        let in_use = state.report.in_use;
        let wanted = bytes.saturating_sub(in_use);
        let largest = state.by_len.last().map_or(0, |(len, _)| *len);
        if wanted <= largest || state.map_exactly(wanted)? {
            return Ok(());
        }
        Err(KernelError::OutOfMemory { name, bytes: wanted, in_use, device: self.device })
    }

    /// Assigns this thread to the device. From now on, the bytes that the thread counts with [`Counted`] are in the device's
    /// report.
    pub(crate) fn adopt_this_thread(self: &Arc<Memory>) {
        HOME.set(Some(self.clone()));
    }

    /// Takes a block of at least `bytes` bytes, which are initialised, but with any values.
    pub(crate) fn take(self: &Arc<Memory>, name: &'static str, bytes: usize) -> Result<Block> {
        let mut state = self.lock();
        let refused = |in_use| KernelError::OutOfMemory { name, bytes, in_use, device: self.device };
        let len = block_len(bytes, state.source.line()).ok_or_else(|| refused(state.report.in_use))?;
        if let Source::Apart(context) = &state.source {
            let at = context.map(bytes.max(1))?.ok_or_else(|| refused(state.report.in_use))?;
            state.report.add(name, len);
            return Ok(Block {
                at,
                place: Place { mapping: 0, offset: 0 },
                len,
                name,
                zeroed: false,
                home: self.clone(),
            });
        }
        let (place, zeroed) = state.cut(len)?.ok_or_else(|| refused(state.report.in_use))?;
        state.report.add(name, len);
        let at = state.mappings[place.mapping].at;
        // SAFETY: the gap that the block was cut from was inside the mapping, so `offset` is too.
        let at = unsafe { at.add(place.offset) };
        Ok(Block { at, place, len, name, zeroed, home: self.clone() })
    }
}

impl State {
    /// Cuts a block out of the smallest gap that holds it. Returns its place, and whether it is all zeros. `None` if the system
    /// has no more memory.
    fn cut(&mut self, len: usize) -> Result<Option<(Place, bool)>> {
        let mut fitting = self.by_len.partition_point(|(gap, _)| *gap < len);
        if fitting == self.by_len.len() {
            if !self.map(len)? {
                return Ok(None);
            }
            fitting = self.by_len.partition_point(|(gap, _)| *gap < len);
        }
        let index = self.index_after(self.by_len[fitting].1);
        let gap = self.gaps[index];
        let rest = Gap {
            place: Place { offset: gap.place.offset + len, ..gap.place },
            len: gap.len - len,
            touched: gap.touched.saturating_sub(len),
        };
        if gap.touched < len {
            self.remove(index);
            self.make_room(len - gap.touched);
            self.report.fresh += (len - gap.touched) as u64;
            if rest.len > 0 {
                self.insert(rest);
            }
        } else if rest.len > 0 {
            self.replace(index, rest);
        } else {
            self.remove(index);
        }
        Ok(Some((gap.place, gap.touched == 0)))
    }

    /// Adds a new mapping of at least `len` bytes, as one gap. Returns whether the system has so much memory.
    fn map(&mut self, len: usize) -> Result<bool> {
        // only on the host do pages cost nothing before they are touched
        let roomy = if self.source.is_host() { self.report.mapped.max(MAPPING) } else { CARD_MAPPING };
        Ok(self.map_exactly(len.max(roomy))? || (len < roomy && self.map_exactly(len)?))
    }

    /// Adds a new mapping of `len` bytes, rounded up to huge pages, as one gap. Returns whether the system has so much memory.
    fn map_exactly(&mut self, len: usize) -> Result<bool> {
        let Some(len) = len.checked_next_multiple_of(HUGE_PAGE) else { return Ok(false) };
        let at = match &self.source {
            Source::Host => pages::map(len),
            Source::Card(context) | Source::Apart(context) => context.map(len)?,
        };
        let Some(at) = at else { return Ok(false) };
        self.mappings.push(Mapping { at, len });
        self.report.mapped += len;
        let touched = if self.source.is_host() { 0 } else { len };
        self.insert(Gap { place: Place { mapping: self.mappings.len() - 1, offset: 0 }, len, touched });
        Ok(true)
    }

    /// Gives pages of gaps back to the system, so that [`KEEP`] holds when `len` more bytes are touched. Begins with the gap that
    /// has the most touched bytes.
    fn make_room(&mut self, len: usize) {
        // a card keeps what it has mapped
        if !self.source.is_host() {
            return;
        }
        let live = self.report.in_use.saturating_add(len);
        let allowed = (live.max(self.report.peak) / KEEP.1).saturating_mul(KEEP.0);
        while live.saturating_add(self.touched) > allowed && self.touched > 0 {
            let largest = (0..self.gaps.len()).max_by_key(|index| self.gaps[*index].touched);
            let index = largest.expect("touched bytes are those of gaps");
            let gap = self.gaps[index];
            // SAFETY: the gap is inside the mapping, and nobody uses it.
            let done = unsafe { pages::forget(self.mappings[gap.place.mapping].at.add(gap.place.offset), gap.touched) };
            if !done {
                return;
            }
            self.replace(index, Gap { touched: 0, ..gap });
        }
    }

    /// Returns the index of the first gap that begins at `place` or behind it.
    fn index_after(&self, place: Place) -> usize {
        self.gaps.partition_point(|gap| gap.place < place)
    }

    fn insert(&mut self, gap: Gap) {
        self.touched += gap.touched;
        let index = self.index_after(gap.place);
        self.gaps.insert(index, gap);
        let key = (gap.len, gap.place);
        self.by_len.insert(self.by_len.partition_point(|other| *other < key), key);
    }

    fn remove(&mut self, index: usize) {
        let gap = self.gaps.remove(index);
        self.touched -= gap.touched;
        let key = (gap.len, gap.place);
        self.by_len.remove(self.by_len.partition_point(|other| *other < key));
    }

    /// Replaces a gap by one that overlaps it, so that the order of the places stays.
    fn replace(&mut self, index: usize, gap: Gap) {
        let old = std::mem::replace(&mut self.gaps[index], gap);
        self.touched = self.touched - old.touched + gap.touched;
        let [from, to] = [(old.len, old.place), (gap.len, gap.place)];
        let index = self.by_len.partition_point(|other| *other < from);
        let new = self.by_len.partition_point(|other| *other < to);
        if new <= index {
            self.by_len[new..=index].rotate_right(1);
            self.by_len[new] = to;
        } else {
            self.by_len[index..new].rotate_left(1);
            self.by_len[new - 1] = to;
        }
    }

    /// Makes a block a gap again, and joins the gap with those on both sides.
    fn free(&mut self, place: Place, len: usize) {
        let index = self.index_after(place);
        let touches = |before: &Gap, place: Place| {
            before.place.mapping == place.mapping && before.place.offset + before.len == place.offset
        };
        let before = index.checked_sub(1).filter(|before| touches(&self.gaps[*before], place));
        let mut gap = match before.map(|before| self.gaps[before]) {
            // the block was touched, so everything before it counts as touched
            Some(before) => Gap { len: before.len + len, touched: before.len + len, ..before },
            None => Gap { place, len, touched: len },
        };
        let after = self.gaps.get(index).copied().filter(|after| touches(&gap, after.place));
        if let Some(after) = after {
            if after.touched > 0 {
                gap.touched = gap.len + after.touched;
            }
            gap.len += after.len;
        }
        match (before, after) {
            (Some(before), Some(_)) => {
                self.remove(index);
                self.replace(before, gap);
            }
            (Some(before), None) => self.replace(before, gap),
            (None, Some(_)) => self.replace(index, gap),
            (None, None) => self.insert(gap),
        }
    }
}

thread_local!(static HOME: RefCell<Option<Arc<Memory>>> = const { RefCell::new(None) });

/// Bytes that a thread holds outside the arena. The report of the thread's device counts them until this is dropped. If the
/// thread belongs to no device, no report counts them.
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
            match &self.source {
                // SAFETY: `map` made the mapping with this length. Every block keeps the memory alive, so no block is left.
                Source::Host => unsafe { pages::unmap(at, len) },
                // SAFETY: `context` made the mapping. Every block keeps the memory alive, so no block is left.
                Source::Card(context) | Source::Apart(context) => unsafe { context.unmap(at) },
            }
        }
    }
}

impl Block {
    /// Returns the first `len` elements of the block.
    ///
    /// # Panics
    /// If the block is shorter.
    pub(crate) fn elements<T: Pod>(&mut self, len: usize) -> &mut [T] {
        assert!(len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= self.len), "{len} elements of the block");
        // SAFETY: the block is initialised and begins at a cache line, and the assertion checks its length. `T: Pod` allows any
        // bits, and `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast::<T>(), len) }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Whether nobody had written to the block's bytes when it was taken: they were all zeros, and may have no pages.
    pub(crate) fn is_zeroed(&self) -> bool {
        self.zeroed
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.home.lock();
        state.report.remove(self.name, self.len);
        if let Source::Apart(context) = &state.source {
            // SAFETY: the block was one allocation, and this is its owner.
            return unsafe { context.unmap(self.at) };
        }
        state.free(self.place, self.len);
    }
}

/// Returns the bytes that a block of `bytes` bytes takes on the host. Sizes that no machine has are returned unchanged.
pub(crate) fn taken(bytes: usize) -> usize {
    block_len(bytes, LINE).unwrap_or(bytes)
}

/// Like [`taken`], but for a block on a card.
pub(crate) fn taken_on_card(bytes: usize) -> usize {
    block_len(bytes, CARD_LINE).unwrap_or(bytes)
}

/// Rounds up to whole lines. `None` for sizes that no machine has.
fn block_len(bytes: usize, line: usize) -> Option<usize> {
    if bytes > isize::MAX as usize / 4 {
        return None; // so the roundings below cannot overflow
    }
    Some(bytes.next_multiple_of(line).max(line))
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
        assert_eq!(memory.report().of("a").in_use, 0);
        assert_eq!(memory.report().of("a").peak, 5 << 20);
        assert_eq!(memory.report().in_use, memory.report().of("b").in_use);
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

    /// Later steps of other sizes leave at most a quarter of the peak more touched bytes than the first step.
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
        // SAFETY: the block holds `bytes` bytes and nobody else uses it.
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
        assert_eq!((memory.report().in_use, memory.report().of("packed").peak), (0, 500));
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
                            // SAFETY: the block holds `bytes` bytes and this thread owns it.
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
