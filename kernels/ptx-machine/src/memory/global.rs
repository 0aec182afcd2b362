//! A launch's view of device memory.

use super::allocations::{Allocation, Allocations};
use super::order::{Clocks, History, Thread, Use};
use super::shared::Wrong;
use crate::launch::Checks;
use std::collections::HashMap;

/// Bytes of device memory whose histories are created together.
const PAGE: u64 = 4096;

/// Device memory as a launch sees it: the allocations that were live when it began.
pub(crate) struct Global {
    live: Allocations,
    /// The allocation of the last access: the next one is most likely in it.
    last: usize,
    checks: Checks,
    /// The accesses of this launch, by page. A page has one history for every two bytes.
    histories: Vec<Box<[History]>>,
    /// Where `histories` has a page, by the number of the page.
    pages: HashMap<u64, usize>,
    /// Number and place of the page that was used last: the next access is most likely in it.
    last_page: (u64, usize),
}

impl Global {
    pub(crate) fn new(live: Allocations, checks: Checks) -> Global {
        Global { live, last: 0, checks, histories: Vec::new(), pages: HashMap::new(), last_page: (u64::MAX, 0) }
    }

    /// Returns the allocation that holds `width` bytes at an address, and their offset in it. Refuses bytes that are not in one
    /// allocation or not aligned.
    #[inline]
    pub(crate) fn place(&mut self, address: u64, width: u32) -> Result<(&Allocation, u64), Wrong> {
        let is_in = |of: &Allocation| address.wrapping_sub(of.start) < of.bytes;
        if !self.live.get(self.last).is_some_and(|of| is_in(of)) {
            let after = self.live.partition_point(|of| of.start <= address);
            self.last = after.saturating_sub(1);
        }
        let Some(of) = self.live.get(self.last).filter(|of| is_in(of)) else {
            return Err(Wrong::Memory(self.stray(address, width)));
        };
        let at = address - of.start;
        if of.bytes - at < u64::from(width) {
            return Err(Wrong::Memory(self.stray(address, width)));
        }
        if !address.is_multiple_of(width.into()) {
            return Err(Wrong::Memory(format!("{width} bytes at {address:#x}, not aligned to {width}")));
        }
        Ok((of, at))
    }

    /// Describes the position of bytes that are not inside one allocation.
    #[cold]
    fn stray(&self, address: u64, width: u32) -> String {
        let after = self.live.partition_point(|of| of.start <= address);
        match after.checked_sub(1).map(|before| &self.live[before]) {
            Some(of) => {
                let past = address.wrapping_sub(of.start + of.bytes) as i64;
                format!("{width} bytes at {address:#x}: {past} bytes after the end of {} bytes", of.bytes)
            }
            None => format!("{width} bytes at {address:#x}, before every allocation"),
        }
    }

    /// Checks and records an access. Returns where the bytes are on the host, with what initcheck and racecheck found. Fails if
    /// the bytes cannot be accessed.
    #[inline]
    pub(crate) fn access(
        &mut self,
        address: u64,
        width: u32,
        how: Use,
        thread: Thread,
        clocks: &Clocks,
    ) -> Result<(*mut u8, [Option<Wrong>; 2]), Wrong> {
        let checks = self.checks;
        let (of, at) = self.place(address, width)?;
        let data = of.data(at);
        let mut wrong = [None, None];
        if let Some(marks) = of.written(at) {
            if checks.init && matches!(how, Use::Read | Use::Atomic) {
                // SAFETY: `place` checked that the bytes are inside `of`, each has a mark, and the launch holds `Memory::busy`.
                let first = (0..width as usize).find(|i| unsafe { marks.wrapping_add(*i).read() } == 0);
                if let Some(first) = first {
                    wrong[0] = Some(Wrong::Init(format!("reads {:#x}, which nobody wrote", address + first as u64)));
                }
            }
            if matches!(how, Use::Write | Use::Atomic) {
                // SAFETY: `place` checked that the bytes are inside `of`, each has a mark, and the launch holds `Memory::busy`.
                unsafe { marks.write_bytes(1, width as usize) };
            }
        }
        if checks.race {
            let first = (address % PAGE) as usize;
            for history in &mut self.page(address / PAGE)[first / 2..(first + width as usize).div_ceil(2)] {
                if let Some(race) = history.add(thread, how, clocks) {
                    wrong[1].get_or_insert(Wrong::Race(format!("{race} (at {address:#x})")));
                }
            }
        }
        Ok((data, wrong))
    }

    /// Returns the histories of a page.
    fn page(&mut self, number: u64) -> &mut [History] {
        if self.last_page.0 != number {
            let place = *self.pages.entry(number).or_insert_with(|| {
                self.histories.push((0..PAGE / 2).map(|_| History::default()).collect());
                self.histories.len() - 1
            });
            self.last_page = (number, place);
        }
        &mut self.histories[self.last_page.1]
    }
}
