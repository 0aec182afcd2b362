//! What the instructions of a warp read and change.

use super::op::Op;
use super::registers::Registers;
use crate::counters::Counters;
use crate::memory::{Clocks, Copies, Global, Shared};
use crate::report::{Check, Log};

/// The running warp, with the memory of its block and of the device.
pub(crate) struct Core<'a> {
    pub registers: Registers,
    pub place: Place,
    /// Lanes that have not returned.
    pub live: u32,
    /// Local memory: that of lane 0, then of lane 1, and so on.
    pub local: Vec<u8>,
    /// Copies to shared memory that this warp has begun.
    pub copies: Copies,
    pub shared: &'a mut Shared,
    pub global: &'a mut Global,
    pub clocks: &'a mut Clocks,
    pub log: &'a mut Log,
    /// Counts memory traffic, if the launch asks for it.
    pub counters: Option<&'a mut Counters>,
}

/// Where a warp is in the grid and in the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// The block's number in the grid, x first.
    pub block: u32,
    /// The warp's number in its block.
    pub warp: u8,
    /// The number of the instruction that runs.
    pub at: u32,
}

impl Core<'_> {
    /// Returns operand `i` of an instruction, a predicate, as a mask of the lanes in which it holds.
    #[inline(always)]
    pub(crate) fn predicate(&self, op: &Op, i: usize) -> u32 {
        self.registers.predicates[usize::from(op.slots[i])]
    }

    /// Counts an execution of the current instruction by `lanes`, if the launch counts.
    pub(crate) fn count_execution(&mut self, lanes: u32) {
        if let Some(counters) = &mut self.counters {
            let counts = &mut counters.instructions[self.place.at as usize];
            counts.executions += 1;
            counts.lanes_off += u64::from(32 - lanes.count_ones());
        }
    }

    /// Reports what a checker has found in a lane.
    #[cold]
    pub(crate) fn report(&mut self, check: Check, op: &Op, lane: usize, text: String) {
        self.log.add(check, op.line, self.place, lane, text);
    }
}

/// Iterates over the lanes of a mask, lowest first.
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
