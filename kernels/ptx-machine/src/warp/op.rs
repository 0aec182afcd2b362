//! A lowered instruction.

use super::registers::Slot;
use crate::forms::Step;

/// Operands of the instruction with the most: a matrix product has four results, and four, two and four sources.
pub(crate) const MOST_OPERANDS: usize = 14;

/// A lowered instruction: what runs it, and where its operands are.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub step: Step,
    pub flow: Flow,
    /// Results first.
    pub slots: [Slot; MOST_OPERANDS],
    /// What the instruction's step needs to know beside its operands.
    pub data: u32,
    /// Added to an address.
    pub offset: i64,
    /// The predicate that must hold in a lane, and whether it is negated.
    pub guard: Option<(Slot, bool)>,
    /// Line of the PTX text.
    pub line: u32,
    /// Whether it only prepares an operand of the next one: PTX has both in one instruction.
    pub is_helper: bool,
}

/// How a warp goes on after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Runs the step, goes to the next instruction.
    Step,
    /// As `Step`, with all the lanes that the slot's mask names: they wait for each other.
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
    /// Waits until all are there.
    Wait,
    /// Is counted, and goes on.
    Arrive,
    /// Waits, and then knows in how many threads a predicate held, whether it held in all, or in any.
    Count,
    All,
    Any,
}
