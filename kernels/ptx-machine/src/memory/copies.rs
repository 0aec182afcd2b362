//! `cp.async`: copies from device memory to shared memory that arrive later.
//!
//! Each lane has groups of copies. When a lane waits, its older groups arrive. The lane can then read their bytes, and other
//! lanes can read them after a barrier. [`Arrival`] decides whether the bytes are written to shared memory as early or as late as
//! PTX allows. The source is always read when the copy begins.

use super::order::{Thread, Use};
use crate::launch::Arrival;
use crate::warp::{Core, LANES, Op, lanes_of};

/// The copies of a warp that have not arrived.
#[derive(Debug)]
pub(crate) struct Copies {
    under_way: Vec<Pending>,
    /// For each lane, how many groups it has committed.
    closed: [u32; LANES],
    arrival: Arrival,
}

/// A copy that has not arrived.
#[derive(Debug, Clone, Copy)]
struct Pending {
    lane: u8,
    /// The number of its group among the lane's groups.
    group: u32,
    to: usize,
    width: u32,
    bytes: [u8; 16],
}

impl Copies {
    pub(crate) fn new(arrival: Arrival) -> Copies {
        Copies { under_way: Vec::new(), closed: [0; LANES], arrival }
    }

    /// Forgets all copies, for a new block.
    pub(crate) fn reset(&mut self) {
        self.under_way.clear();
        self.closed = [0; LANES];
    }
}

/// `cp.async [to], [from], bytes{, bytes read}`. The bytes that are not read are written as zeros. Operands: to, from, bytes
/// read.
pub(crate) fn copy_async(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let width = op.data;
    let to = core.addresses(op, 0);
    let from = core.addresses_in(op.slots[1], 0);
    let read = core.registers.words[usize::from(op.slots[2])].0;
    let reading = lanes_of(lanes).filter(|lane| read[*lane] > 0).fold(0, |mask, lane| mask | 1 << lane);
    core.count_global(&from, width, reading, Use::Read);
    core.count_shared(&to, width, lanes);
    for lane in lanes_of(lanes) {
        let mut bytes = [0; 16];
        let length = read[lane].min(width) as usize;
        // a copy that reads nothing does not access its source
        if length > 0 {
            let Some(data) = core.copied_from(op, from[lane], length as u32, width, lane) else { continue };
            // SAFETY: `copied_from` checked that each of the `length` bytes is in an allocation. All are in the same allocation,
            // since there are unused bytes between allocations. The launch holds `Memory::busy`.
            unsafe { std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), length) };
        }
        let Some(at) = core.shared_at(op, to[lane], width, Use::CopyTo, lane) else { continue };
        if core.copies.arrival == Arrival::Early {
            core.shared.bytes[at..][..width as usize].copy_from_slice(&bytes[..width as usize]);
        }
        let group = core.copies.closed[lane];
        core.copies.under_way.push(Pending { lane: lane as u8, group, to: at, width, bytes });
    }
}

/// `cp.async.commit_group`
pub(crate) fn commit(core: &mut Core<'_>, _: &Op, lanes: u32) {
    lanes_of(lanes).for_each(|lane| core.copies.closed[lane] += 1);
}

/// `cp.async.wait_group n`: waits until all but the newest `n` groups have arrived. `n` is in [`Op::data`].
pub(crate) fn wait_group(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let closed = core.copies.closed;
    arrive(core, |copy| {
        lanes >> copy.lane & 1 == 1 && copy.group.saturating_add(op.data) < closed[usize::from(copy.lane)]
    });
}

/// `cp.async.wait_all`
pub(crate) fn wait_all(core: &mut Core<'_>, _: &Op, lanes: u32) {
    arrive(core, |copy| lanes >> copy.lane & 1 == 1);
}

fn arrive(core: &mut Core<'_>, arrives: impl Fn(&Pending) -> bool) {
    let mut under_way = std::mem::take(&mut core.copies.under_way);
    under_way.retain(|copy| {
        if !arrives(copy) {
            return true;
        }
        if core.copies.arrival == Arrival::Late {
            core.shared.bytes[copy.to..][..copy.width as usize].copy_from_slice(&copy.bytes[..copy.width as usize]);
        }
        let thread = Thread::new(core.place.block, core.place.warp, usize::from(copy.lane));
        core.shared.arrived(copy.to, copy.width, thread, core.clocks);
        false
    });
    core.copies.under_way = under_way;
}

impl Core<'_> {
    /// Checks the source of a copy: it must be aligned to `width`, and its first `length` bytes, which the copy reads, must be
    /// accessible. Returns their address on the host. Reports a fault and returns `None` if the check fails.
    fn copied_from(&mut self, op: &Op, address: u64, length: u32, width: u32, lane: usize) -> Option<*mut u8> {
        if length == width {
            return self.global_at(op, address, width, Use::Read, lane);
        }
        if !address.is_multiple_of(width.into()) {
            let text = format!("copies from {address:#x}, not aligned to {width}");
            self.report(crate::report::Check::Memory, op, lane, text);
            return None;
        }
        // byte by byte, because `length` may be a width that no access has
        let first = self.global_at(op, address, 1, Use::Read, lane)?;
        for byte in 1..u64::from(length) {
            self.global_at(op, address + byte, 1, Use::Read, lane)?;
        }
        Some(first)
    }
}
