//! A lowered instruction.

use super::registers::Slot;
use crate::forms::Step;

/// Largest number of operands of an instruction: a matrix product has four results, and sources of four, two and four registers.
pub(crate) const MOST_OPERANDS: usize = 14;

/// A lowered instruction: what runs it, and where its operands are.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub step: Step,
    pub flow: Flow,
    /// The places of the operands, results first.
    pub slots: [Slot; MOST_OPERANDS],
    /// What the instruction's step needs to know besides its operands.
    pub data: u32,
    /// Added to the address that the instruction accesses.
    pub offset: i64,
    /// The predicate that must hold for a lane to run it, and whether the predicate is negated.
    pub guard: Option<(Slot, bool)>,
    /// Line of the PTX text.
    pub line: u32,
    /// Whether it is a part of the instruction before or after it, whose result it converts or whose operand it prepares. In PTX
    /// the two are one instruction.
    pub is_helper: bool,
}

/// How a warp goes on after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Runs the step and goes to the next instruction.
    Step,
    /// Like `Step`, but first waits until all lanes of the mask in the register `members` have reached the instruction.
    Together {
        members: Slot,
    },
    Branch {
        to: u32,
    },
    Return,
    /// A barrier of the block.
    Barrier(Barrier),
}

/// What a barrier does with the warps that come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The warp waits until all threads that the barrier is for have come.
    Wait,
    /// The warp is counted, and goes on.
    Arrive,
    /// The warp waits, and then gets the number of threads in which a predicate held.
    Count,
    /// The warp waits, and then learns whether the predicate held in all threads.
    All,
    /// The warp waits, and then learns whether the predicate held in any thread.
    Any,
}
