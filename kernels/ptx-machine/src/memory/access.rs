//! Loads and stores.

use super::order::{Thread, Use};
use super::shared::Wrong;
use crate::parse::SHARED_START;
use crate::report::Check;
use crate::warp::{Core, LANES, Op, Slot, lanes_of};

/// What a load or store moves in each lane: some elements, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elements {
    /// Bytes of an element.
    pub bytes: u32,
    pub count: u32,
    /// Whether elements are signed and smaller than 64 bits. Such elements keep their sign in a wider register.
    pub is_signed: bool,
}

impl Elements {
    /// Packs the elements into a number for [`Op::data`].
    pub(crate) fn data(self) -> u32 {
        self.bytes | self.count << 8 | u32::from(self.is_signed) << 16
    }

    #[inline(always)]
    fn of(op: &Op) -> Elements {
        Elements { bytes: op.data & 0xff, count: op.data >> 8 & 0xff, is_signed: op.data >> 16 != 0 }
    }

    fn width(self) -> u32 {
        self.bytes * self.count
    }
}

pub(crate) fn load_global(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, elements.count as usize);
    core.count_global(&addresses, elements.width(), lanes, Use::Read);
    for lane in lanes_of(lanes) {
        let data = core.global_at(op, addresses[lane], elements.width(), Use::Read, lane);
        if let Some(data) = data {
            // SAFETY: `global_at` checked that the bytes are in one allocation and aligned; the launch holds `Memory::busy`.
            load(core, op, elements, lane, |at| unsafe { read(data.wrapping_add(at), elements.bytes) });
        }
    }
}

pub(crate) fn store_global(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, 0);
    core.count_global(&addresses, elements.width(), lanes, Use::Write);
    for lane in lanes_of(lanes) {
        let data = core.global_at(op, addresses[lane], elements.width(), Use::Write, lane);
        if let Some(data) = data {
            store(core, op, elements, lane, |at, value| {
                // SAFETY: `global_at` checked that the bytes are in one allocation and aligned; the launch holds `Memory::busy`.
                unsafe { write(data.wrapping_add(at), elements.bytes, value) };
            });
        }
    }
}

pub(crate) fn load_shared(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, elements.count as usize);
    core.count_shared(&addresses, elements.width(), lanes);
    if elements.bytes == 4
        && let Some(places) = core.shared_places(&addresses, elements.width(), lanes)
    {
        for i in 0..elements.count as usize {
            let to = &mut core.registers.words[usize::from(op.slots[i])].0;
            for lane in lanes_of(lanes) {
                let bytes = &core.shared.bytes[places[lane] + 4 * i..][..4];
                to[lane] = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
            }
        }
        return;
    }
    for lane in lanes_of(lanes) {
        if let Some(at) = core.shared_at(op, addresses[lane], elements.width(), Use::Read, lane) {
            let mut bytes = [0; 16];
            bytes[..elements.width() as usize].copy_from_slice(&core.shared.bytes[at..][..elements.width() as usize]);
            load(core, op, elements, lane, |at| from_bytes(&bytes[at..][..elements.bytes as usize]));
        }
    }
}

pub(crate) fn store_shared(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, 0);
    core.count_shared(&addresses, elements.width(), lanes);
    if elements.bytes == 4
        && let Some(places) = core.shared_places(&addresses, elements.width(), lanes)
    {
        for i in 0..elements.count as usize {
            let from = &core.registers.words[usize::from(op.slots[1 + i])].0;
            for lane in lanes_of(lanes) {
                core.shared.bytes[places[lane] + 4 * i..][..4].copy_from_slice(&from[lane].to_le_bytes());
            }
        }
        return;
    }
    for lane in lanes_of(lanes) {
        if let Some(at) = core.shared_at(op, addresses[lane], elements.width(), Use::Write, lane) {
            let mut bytes = [0; 16];
            store(core, op, elements, lane, |at, value| {
                bytes[at..][..elements.bytes as usize].copy_from_slice(&value.to_le_bytes()[..elements.bytes as usize]);
            });
            core.shared.bytes[at..][..elements.width() as usize].copy_from_slice(&bytes[..elements.width() as usize]);
        }
    }
}

pub(crate) fn load_local(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, elements.count as usize);
    for lane in lanes_of(lanes) {
        if let Some(at) = core.local_at(op, addresses[lane], elements.width(), lane) {
            let mut bytes = [0; 16];
            bytes[..elements.width() as usize].copy_from_slice(&core.local[at..][..elements.width() as usize]);
            load(core, op, elements, lane, |at| from_bytes(&bytes[at..][..elements.bytes as usize]));
        }
    }
}

pub(crate) fn store_local(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let elements = Elements::of(op);
    let addresses = core.addresses(op, 0);
    for lane in lanes_of(lanes) {
        if let Some(start) = core.local_at(op, addresses[lane], elements.width(), lane) {
            let mut bytes = [0; 16];
            store(core, op, elements, lane, |at, value| {
                bytes[at..][..elements.bytes as usize].copy_from_slice(&value.to_le_bytes()[..elements.bytes as usize]);
            });
            core.local[start..][..elements.width() as usize].copy_from_slice(&bytes[..elements.width() as usize]);
        }
    }
}

/// Puts the elements of a lane into its result registers. `element(at)` reads the element that begins at byte `at`.
#[inline(always)]
fn load(core: &mut Core<'_>, op: &Op, elements: Elements, lane: usize, element: impl Fn(usize) -> u64) {
    for i in 0..elements.count as usize {
        let value = element(i * elements.bytes as usize);
        let slot = usize::from(op.slots[i]);
        match (elements.bytes, elements.is_signed) {
            (8, _) => core.registers.wides[slot].0[lane] = value,
            (1, true) => core.registers.words[slot].0[lane] = i32::from(value as i8) as u32,
            (2, true) => core.registers.words[slot].0[lane] = i32::from(value as i16) as u32,
            _ => core.registers.words[slot].0[lane] = value as u32,
        }
    }
}

/// Calls `element(at, value)` for each element of a lane, which begins at byte `at`. The values are the operands after the
/// address.
#[inline(always)]
fn store(core: &Core<'_>, op: &Op, elements: Elements, lane: usize, mut element: impl FnMut(usize, u64)) {
    for i in 0..elements.count as usize {
        let slot = usize::from(op.slots[1 + i]);
        let value = match elements.bytes {
            8 => core.registers.wides[slot].0[lane],
            _ => u64::from(core.registers.words[slot].0[lane]),
        };
        element(i * elements.bytes as usize, value);
    }
}

fn from_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads an integer of `bytes` bytes (1, 2, 4 or 8) from device memory.
///
/// # Safety
/// `at` is aligned to `bytes`, the bytes are in live memory, and the launch holds [`super::Memory::busy`].
#[inline(always)]
pub(super) unsafe fn read(at: *mut u8, bytes: u32) -> u64 {
    // SAFETY: the caller promises that the bytes are in live memory and aligned; while the launch holds `busy`, nobody else
    // accesses them.
    unsafe {
        match bytes {
            1 => at.read().into(),
            2 => at.cast::<u16>().read().into(),
            4 => at.cast::<u32>().read().into(),
            _ => at.cast::<u64>().read(),
        }
    }
}

/// Writes the lowest `bytes` bytes of `value` to device memory.
///
/// # Safety
/// `bytes` is 1, 2, 4 or 8, `at` is aligned to it, the bytes are in live memory, and the launch holds [`super::Memory::busy`].
#[inline(always)]
pub(super) unsafe fn write(at: *mut u8, bytes: u32, value: u64) {
    // SAFETY: the caller promises that the bytes are in live memory and aligned; while the launch holds `busy`, nobody else
    // accesses them.
    unsafe {
        match bytes {
            1 => at.write(value as u8),
            2 => at.cast::<u16>().write(value as u16),
            4 => at.cast::<u32>().write(value as u32),
            _ => at.cast::<u64>().write(value),
        }
    }
}

impl Core<'_> {
    /// Returns the address in each lane. `operand` is the place of the address among the operands: it comes after the results.
    #[inline(always)]
    pub(crate) fn addresses(&self, op: &Op, operand: usize) -> [u64; LANES] {
        self.addresses_in(op.slots[operand], op.offset)
    }

    #[inline(always)]
    pub(crate) fn addresses_in(&self, slot: Slot, offset: i64) -> [u64; LANES] {
        self.registers.wides[usize::from(slot)].0.map(|base| base.wrapping_add_signed(offset))
    }

    /// Returns where a lane's bytes of device memory are on the host. Reports what is wrong with the access. `None` if the bytes
    /// are not in one allocation or not aligned.
    #[inline]
    pub(super) fn global_at(&mut self, op: &Op, address: u64, width: u32, how: Use, lane: usize) -> Option<*mut u8> {
        let thread = Thread::new(self.place.block, self.place.warp, lane);
        match self.global.access(address, width, how, thread, self.clocks) {
            Ok((data, [None, None])) => Some(data),
            Ok((data, wrong)) => {
                wrong.into_iter().flatten().for_each(|wrong| self.wrong(op, lane, wrong));
                Some(data)
            }
            Err(wrong) => {
                self.wrong(op, lane, wrong);
                None
            }
        }
    }

    /// Returns the place of a lane's bytes in shared memory. Reports what is wrong with the access. `None` if the bytes are
    /// outside or not aligned.
    #[inline]
    pub(super) fn shared_at(&mut self, op: &Op, address: u64, width: u32, how: Use, lane: usize) -> Option<usize> {
        let at = match self.shared.place(address, width) {
            Ok(at) => at,
            Err(wrong) => {
                self.wrong(op, lane, wrong);
                return None;
            }
        };
        if self.shared.is_checked() {
            let thread = Thread::new(self.place.block, self.place.warp, lane);
            let wrong = self.shared.access(at, width, how, thread, self.clocks);
            wrong.into_iter().flatten().for_each(|wrong| self.wrong(op, lane, wrong));
        }
        Some(at)
    }

    /// Reads 16 bytes of shared memory for `lane`. Returns zeros if they are outside or not aligned, and reports that.
    pub(crate) fn shared_row(&mut self, op: &Op, address: u64, lane: usize) -> [u8; 16] {
        match self.shared_at(op, address, 16, Use::Read, lane) {
            Some(at) => self.shared.bytes[at..][..16].try_into().expect("16 bytes"),
            None => [0; 16],
        }
    }

    fn local_at(&mut self, op: &Op, address: u64, width: u32, lane: usize) -> Option<usize> {
        let each = self.local.len() / LANES;
        let is_inside = address.checked_add(u64::from(width)).is_some_and(|end| end <= each as u64);
        if !is_inside || !address.is_multiple_of(width.into()) {
            let text = format!("{width} bytes at {address:#x} of {each} bytes of local memory");
            self.report(Check::Memory, op, lane, text);
            return None;
        }
        Some(lane * each + address as usize)
    }

    #[cold]
    pub(super) fn wrong(&mut self, op: &Op, lane: usize, wrong: Wrong) {
        let (check, text) = match wrong {
            Wrong::Memory(text) => (Check::Memory, text),
            Wrong::Init(text) => (Check::Init, text),
            Wrong::Race(text) => (Check::Race, text),
        };
        self.report(check, op, lane, text);
    }

    pub(super) fn count_global(&mut self, addresses: &[u64; LANES], width: u32, lanes: u32, how: Use) {
        if let Some(counters) = &mut self.counters {
            counters.global(self.place.at, addresses, width, lanes, how);
        }
    }

    /// Returns where each lane's `width` bytes of shared memory begin, for an access that needs no look at each lane: no checker
    /// looks at single accesses, and all bytes are inside the memory and aligned. Otherwise `None`.
    #[inline(always)]
    fn shared_places(&self, addresses: &[u64; LANES], width: u32, lanes: u32) -> Option<[usize; LANES]> {
        if self.shared.is_checked() {
            return None;
        }
        let last = (self.shared.bytes.len() as u64).checked_sub(width.into())?;
        let places = addresses.map(|address| address.wrapping_sub(SHARED_START.into()));
        let fits = |lane: usize| places[lane] <= last && places[lane].is_multiple_of(width.into());
        lanes_of(lanes).all(fits).then(|| places.map(|place| place as usize))
    }

    pub(super) fn count_shared(&mut self, addresses: &[u64; LANES], width: u32, lanes: u32) {
        if let Some(counters) = &mut self.counters {
            counters.shared(self.place.at, addresses, width, lanes);
        }
    }
}
