//! How a warp goes through its instructions when its lanes take different branches.
//!
//! The lanes are in groups, each at one instruction. The group that is furthest behind runs until it reaches the next one and
//! joins it. At a barrier, and at an instruction that lanes run together, a group waits for the lanes that are missing. If every
//! group waits, that is a fault of the kernel.

use super::core::{Core, lanes_of};
use super::op::{Barrier, Flow, Op};
use super::registers::Slot;
use crate::report::Check;

/// Lanes that are at one instruction.
#[derive(Debug, Clone, Copy)]
struct Group {
    at: u32,
    lanes: u32,
    /// Whether the group waits for lanes that are missing.
    waits: bool,
}

/// The lanes of a warp, by where they are.
#[derive(Debug)]
pub(crate) struct Warp {
    groups: Vec<Group>,
}

/// Why a warp does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All its lanes have returned.
    Done,
    /// It is at barrier `id`, which waits for `threads` threads (`None`: for all warps that have not ended). `holds` is the mask of
    /// lanes in which the predicate holds. The first operand of instruction `at` gets the result, if there is one.
    Barrier { kind: Barrier, id: u32, threads: Option<u32>, holds: u32, at: u32 },
    /// It has run as many instructions as it was asked to.
    Paused,
    /// It can never go on.
    Stuck,
}

/// What happened when a group came to an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    On,
    /// The group waits. The instruction was not executed.
    Waits,
    Stops(Stop),
}

impl Warp {
    /// Makes a warp at the first instruction of its kernel.
    pub(crate) fn new(lanes: u32) -> Warp {
        Warp { groups: vec![Group { at: 0, lanes, waits: false }] }
    }

    /// Runs at most `quantum` instructions, and adds to `executed` how often each was executed. Returns why the warp stops, and
    /// after how many instructions.
    pub(crate) fn run(&mut self, core: &mut Core<'_>, code: &[Op], quantum: u64, executed: &mut [u64]) -> (Stop, u64) {
        for done in 0..quantum {
            let Some(current) = self.next() else { return (Stop::Done, done) };
            let Group { at, lanes: group, .. } = self.groups[current];
            let op = &code[at as usize];
            let lanes = match op.guard {
                None => group,
                Some((slot, negated)) => {
                    let holds = core.registers.predicates[usize::from(slot)];
                    group & if negated { !holds } else { holds }
                }
            };
            core.place.at = at;
            let went = self.execute(core, op, current, lanes);
            if went != Went::Waits && !op.is_helper {
                executed[at as usize] += 1;
                core.count_execution(lanes);
            }
            if let Went::Stops(stop) = went {
                return (stop, done + 1);
            }
            self.merge();
        }
        (Stop::Paused, quantum)
    }

    fn execute(&mut self, core: &mut Core<'_>, op: &Op, current: usize, lanes: u32) -> Went {
        match op.flow {
            Flow::Step => {
                // SAFETY: the step was chosen for this processor when the kernel was lowered.
                unsafe { (op.step)(core, op, lanes) };
                self.groups[current].at += 1;
            }
            Flow::Together { members } => return self.together(core, op, current, lanes, members),
            Flow::Branch { to } => self.branch(current, lanes, to),
            Flow::Return => {
                core.live &= !lanes;
                self.leave(current, lanes);
                // the lanes that a group waits for may have returned
                self.groups.iter_mut().for_each(|group| group.waits = false);
            }
            Flow::Barrier(kind) => return self.barrier(core, op, current, lanes, kind),
        }
        Went::On
    }

    /// Returns the group that runs next: the furthest behind of the groups that do not wait.
    fn next(&self) -> Option<usize> {
        if let [only] = self.groups.as_slice() {
            return (!only.waits).then_some(0);
        }
        (0..self.groups.len()).filter(|i| !self.groups[*i].waits).min_by_key(|i| self.groups[*i].at)
    }

    fn branch(&mut self, current: usize, lanes: u32, to: u32) {
        let group = &mut self.groups[current];
        if lanes == group.lanes {
            group.at = to;
            return;
        }
        group.at += 1;
        group.lanes &= !lanes;
        if lanes != 0 {
            self.groups.push(Group { at: to, lanes, waits: false });
        }
    }

    /// Lets lanes return. The other lanes of the group go on.
    fn leave(&mut self, current: usize, lanes: u32) {
        let group = &mut self.groups[current];
        group.at += 1;
        group.lanes &= !lanes;
        if group.lanes == 0 {
            self.groups.swap_remove(current);
        }
    }

    /// Runs a step that all members run together.
    fn together(&mut self, core: &mut Core<'_>, op: &Op, current: usize, lanes: u32, members: Slot) -> Went {
        if lanes == 0 {
            self.groups[current].at += 1;
            return Went::On;
        }
        let named = core.registers.members(members, lanes);
        let missing = named & core.live & !lanes;
        // missing lanes of the current group never come, because the guard excludes them
        if missing != 0 && missing & self.groups[current].lanes == 0 {
            return self.wait(core, op, current, missing);
        }
        if missing != 0 {
            self.report_missing(core, op, lanes, missing);
        }
        let first = lanes.trailing_zeros() as usize;
        if let Some(lane) = lanes_of(lanes).find(|lane| core.registers.words[usize::from(members)].0[*lane] != named) {
            core.report(Check::Sync, op, lane, format!("names other members than lane {first}"));
        }
        if let Some(lane) = lanes_of(lanes & !named).next() {
            core.report(Check::Sync, op, lane, format!("is not among the members that it names, {named:#x}"));
        }
        // SAFETY: the step was chosen for this processor when the kernel was lowered.
        unsafe { (op.step)(core, op, lanes & named) };
        self.groups[current].at += 1;
        Went::On
    }

    fn barrier(&mut self, core: &mut Core<'_>, op: &Op, current: usize, lanes: u32, kind: Barrier) -> Went {
        if lanes == 0 {
            self.groups[current].at += 1;
            return Went::On;
        }
        let missing = core.live & !lanes;
        if missing != 0 && missing & self.groups[current].lanes == 0 {
            return self.wait(core, op, current, missing);
        }
        if missing != 0 {
            self.report_missing(core, op, lanes, missing);
        }
        let number = |slot: Slot| core.registers.words[usize::from(slot)].0[lanes.trailing_zeros() as usize];
        // operands: result, barrier, threads (0: all), predicate
        let (id, threads) = (number(op.slots[1]), number(op.slots[2]));
        let holds = core.predicate(op, 3) & lanes;
        let at = self.groups[current].at;
        self.groups[current].at += 1;
        Went::Stops(Stop::Barrier { kind, id, threads: (threads > 0).then_some(threads), holds, at })
    }

    /// Lets a group wait for missing lanes. The warp is stuck if no group is left that can run.
    fn wait(&mut self, core: &mut Core<'_>, op: &Op, current: usize, missing: u32) -> Went {
        self.groups[current].waits = true;
        if self.groups.iter().any(|group| !group.waits) {
            return Went::Waits;
        }
        let lanes = self.groups[current].lanes;
        self.report_missing(core, op, lanes, missing);
        Went::Stops(Stop::Stuck)
    }

    fn report_missing(&self, core: &mut Core<'_>, op: &Op, lanes: u32, missing: u32) {
        let first = lanes_of(missing).next().unwrap_or(0);
        let text = format!("{} lanes must be here and are not, lane {first} first", missing.count_ones());
        core.report(Check::Sync, op, lanes.trailing_zeros() as usize & 31, text);
    }

    /// Joins groups that are at the same instruction. A joined group does not wait any more: it checks again which lanes are
    /// missing.
    fn merge(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        let mut i = 0;
        while i < self.groups.len() {
            let at = self.groups[i].at;
            if let Some(other) = (i + 1..self.groups.len()).find(|other| self.groups[*other].at == at) {
                let other = self.groups.swap_remove(other);
                self.groups[i].lanes |= other.lanes;
                self.groups[i].waits = false;
            } else {
                i += 1;
            }
        }
    }
}
