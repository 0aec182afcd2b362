//! The shared memory of a block, with what the checkers know of its bytes.

use super::order::{Clocks, History, Thread, Use};
use crate::launch::Checks;
use crate::parse::SHARED_START;

/// The shared memory of a block. Addresses start at [`SHARED_START`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub bytes: Vec<u8>,
    written: Vec<bool>,
    /// One history for every two bytes. Empty without the race checker.
    histories: Vec<History>,
    checks: Checks,
}

/// What is wrong with an access of a lane, and which checker found it.
pub(crate) enum Wrong {
    Memory(String),
    Init(String),
    Race(String),
}

impl Shared {
    pub(crate) fn new(checks: Checks) -> Shared {
        Shared { bytes: Vec::new(), written: Vec::new(), histories: Vec::new(), checks }
    }

    /// Begins a block: makes `bytes` bytes that nobody has written.
    pub(crate) fn reset(&mut self, bytes: u32) {
        let bytes = bytes as usize;
        self.bytes.clear();
        self.bytes.resize(bytes, 0xff);
        if self.checks.init {
            self.written.clear();
            self.written.resize(bytes, false);
        }
        if self.checks.race {
            self.histories.iter_mut().for_each(History::clear);
            self.histories.resize_with(bytes.div_ceil(2), History::default);
        }
    }

    /// Returns the offset of `width` bytes at an address. Refuses bytes that are outside or not aligned.
    pub(crate) fn place(&self, address: u64, width: u32) -> Result<usize, Wrong> {
        let at = address.wrapping_sub(u64::from(SHARED_START));
        let end = at.checked_add(u64::from(width));
        if end.is_none_or(|end| end > self.bytes.len() as u64) {
            return Err(Wrong::Memory(format!(
                "{width} bytes at {at:#x} of shared memory, which has {:#x}",
                self.bytes.len()
            )));
        }
        if !at.is_multiple_of(width.into()) {
            return Err(Wrong::Memory(format!("{width} bytes at {at:#x} of shared memory, not aligned to {width}")));
        }
        Ok(at as usize)
    }

    /// Checks and records an access to bytes inside the memory. Returns what initcheck and racecheck found.
    pub(crate) fn access(
        &mut self,
        at: usize,
        width: u32,
        how: Use,
        thread: Thread,
        clocks: &Clocks,
    ) -> [Option<Wrong>; 2] {
        let mut wrong = [None, None];
        let range = at..at + width as usize;
        if self.checks.init {
            if matches!(how, Use::Read | Use::Atomic)
                && let Some(first) = self.written[range.clone()].iter().position(|written| !written)
            {
                let at = at + first;
                wrong[0] = Some(Wrong::Init(format!("reads byte {at:#x} of shared memory, which nobody wrote")));
            }
            if how != Use::Read {
                self.written[range.clone()].fill(true);
            }
        }
        if self.checks.race {
            for history in &mut self.histories[range.start / 2..range.end.div_ceil(2)] {
                if let Some(race) = history.add(thread, how, clocks) {
                    wrong[1].get_or_insert(Wrong::Race(format!("{race} (at {at:#x} of shared memory)")));
                }
            }
        }
        wrong
    }

    /// Notes that a copy to these bytes has arrived.
    pub(crate) fn arrived(&mut self, at: usize, width: u32, thread: Thread, clocks: &Clocks) {
        if self.checks.race {
            for history in &mut self.histories[at / 2..(at + width as usize).div_ceil(2)] {
                history.arrived(thread, clocks);
            }
        }
    }

    /// Whether initcheck or racecheck looks at accesses.
    pub(crate) fn is_checked(&self) -> bool {
        self.checks.init || self.checks.race
    }
}
