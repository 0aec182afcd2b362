//! Instructions in which the lanes of a warp exchange values or wait for each other.

use super::core::lanes_of;
use super::op::Op;
use super::registers::LANES;
use super::{Core, Registers};
use crate::report::Check;

/// How a shuffle chooses the lane whose value a lane takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Index,
    Up,
    Down,
    Butterfly,
}

impl Shuffle {
    pub(crate) fn parse(name: &str) -> Option<Shuffle> {
        Some(match name {
            "idx" => Shuffle::Index,
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            _ => return None,
        })
    }
}

/// `shfl.sync.MODE.b32 d|p, a, b, c, members`. The mode is in [`Op::data`].
pub(crate) fn shuffle(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let [a, b, c] = [2, 3, 4].map(|i| core.registers.words[usize::from(op.slots[i])].0);
    let (mut d, mut inside) = ([0; LANES], 0u32);
    for lane in lanes_of(lanes) {
        let (segment, clamp) = (c[lane] >> 8 & 31, c[lane] & 31);
        let own = lane as u32;
        let last = own & segment | clamp & !segment;
        let (from, is_inside) = match op.data {
            x if x == Shuffle::Index as u32 => {
                let from = own & segment | b[lane] & 31 & !segment;
                (from, from <= last)
            }
            x if x == Shuffle::Up as u32 => {
                let from = own.wrapping_sub(b[lane] & 31);
                (from, from as i32 >= last as i32)
            }
            x if x == Shuffle::Down as u32 => {
                let from = own + (b[lane] & 31);
                (from, from <= last)
            }
            _ => {
                let from = own ^ b[lane] & 31;
                (from, from <= last)
            }
        };
        let from = if is_inside { from as usize & 31 } else { lane };
        if lanes >> from & 1 == 0 {
            core.report(Check::Sync, op, lane, format!("takes the value of lane {from}, which does not take part"));
        }
        d[lane] = a[from];
        inside |= u32::from(is_inside) << lane;
    }
    core.registers.write(op.slots[0], &d, lanes);
    core.registers.write_predicate(op.slots[1], inside, lanes);
}

/// `vote.sync.all.pred d, a, members`
pub(crate) fn vote_all(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let holds = core.predicate(op, 1) & lanes == lanes;
    core.registers.write_predicate(op.slots[0], if holds { u32::MAX } else { 0 }, lanes);
}

/// `vote.sync.any.pred d, a, members`
pub(crate) fn vote_any(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let holds = core.predicate(op, 1) & lanes != 0;
    core.registers.write_predicate(op.slots[0], if holds { u32::MAX } else { 0 }, lanes);
}

/// `vote.sync.ballot.b32 d, a, members`
pub(crate) fn ballot(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let holds = core.predicate(op, 1) & lanes;
    core.registers.write(op.slots[0], &[holds; LANES], lanes);
}

/// `bar.warp.sync members`: what each lane did before is ordered before what the others do after.
pub(crate) fn sync_warp(core: &mut Core<'_>, _: &Op, lanes: u32) {
    // an order between only some of the lanes is not recorded, so that it hides no race between the others
    if lanes == core.live {
        core.clocks.advance(core.place.warp);
    }
}

impl Registers {
    /// Returns the mask of members that a collective instruction names: the one in the first lane of `lanes`.
    pub(crate) fn members(&self, slot: u16, lanes: u32) -> u32 {
        self.words[usize::from(slot)].0[lanes.trailing_zeros() as usize & 31]
    }
}
