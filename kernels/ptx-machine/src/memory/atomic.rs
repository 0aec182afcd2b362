//! `atom` and `red`: read, change and write a number in one step.

use super::access::{read, write};
use super::order::Use;
use crate::warp::{Core, Op, lanes_of};

/// An atomic change of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    AddF32,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
}

/// Returns what the end of an `atom` or `red` opcode means, e.g. `add.f32`: the change, and the size of the number in bytes. `None`
/// if the machine does not know it.
pub(crate) fn atomic_form(operation: &str, kind: &str) -> Option<(Atomic, u32)> {
    let bytes = crate::parse::bytes_of(kind).filter(|bytes| *bytes >= 4)?;
    let is_signed = kind.starts_with('s');
    let change = match (operation, kind) {
        ("add", "f32") => Atomic::AddF32,
        ("add", "u32" | "s32" | "u64") => Atomic::Add,
        ("min", _) if is_signed => Atomic::MinS,
        ("max", _) if is_signed => Atomic::MaxS,
        ("min", "u32" | "u64") => Atomic::MinU,
        ("max", "u32" | "u64") => Atomic::MaxU,
        ("and", "b32" | "b64") => Atomic::And,
        ("or", "b32" | "b64") => Atomic::Or,
        ("xor", "b32" | "b64") => Atomic::Xor,
        ("exch", "b32" | "b64") => Atomic::Exchange,
        ("cas", "b32" | "b64") => Atomic::CompareAndSwap,
        _ => return None,
    };
    Some((change, bytes))
}

impl Atomic {
    /// Returns the number after the change. `old` is the number before it, `a` and `b` are the operands.
    fn changed(self, old: u64, a: u64, b: u64, bytes: u32) -> u64 {
        let signed = |x: u64| if bytes == 4 { i64::from(x as i32) } else { x as i64 };
        match self {
            Atomic::Add => old.wrapping_add(a),
            Atomic::AddF32 => (f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits().into(),
            Atomic::MinU => old.min(a),
            Atomic::MaxU => old.max(a),
            Atomic::MinS => signed(old).min(signed(a)) as u64,
            Atomic::MaxS => signed(old).max(signed(a)) as u64,
            Atomic::And => old & a,
            Atomic::Or => old | a,
            Atomic::Xor => old ^ a,
            Atomic::Exchange => a,
            Atomic::CompareAndSwap if old == a => b,
            Atomic::CompareAndSwap => old,
        }
    }
}

/// Packs a change and the bytes of its number into a number for [`Op::data`].
pub(crate) fn data(change: Atomic, bytes: u32) -> u32 {
    change as u32 | bytes << 8
}

const CHANGES: [Atomic; 11] = [
    Atomic::Add,
    Atomic::AddF32,
    Atomic::MinU,
    Atomic::MaxU,
    Atomic::MinS,
    Atomic::MaxS,
    Atomic::And,
    Atomic::Or,
    Atomic::Xor,
    Atomic::Exchange,
    Atomic::CompareAndSwap,
];

const _: () = {
    let mut i = 0;
    while i < CHANGES.len() {
        assert!(CHANGES[i] as usize == i, "the list is in the order of the enum");
        i += 1;
    }
};

/// Changes device memory. Operands: result, address, two numbers. Only `cas` uses the second number.
pub(crate) fn change_global(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let (change, bytes) = (CHANGES[(op.data & 0xff) as usize], op.data >> 8);
    let addresses = core.addresses(op, 1);
    core.count_global(&addresses, bytes, lanes, Use::Atomic);
    for lane in lanes_of(lanes) {
        let Some(data) = core.global_at(op, addresses[lane], bytes, Use::Atomic, lane) else { continue };
        let [a, b] = [2, 3].map(|i| core.number(op, i, bytes, lane));
        // SAFETY: `global_at` checked that the bytes are in one allocation and aligned; the launch holds `Memory::busy`.
        let old = unsafe { read(data, bytes) };
        // SAFETY: these are the bytes that `global_at` checked; the launch holds `Memory::busy`.
        unsafe { write(data, bytes, change.changed(old, a, b, bytes)) };
        core.result(op, bytes, lane, old);
    }
}

/// Changes shared memory. The operands are those of [`change_global`].
pub(crate) fn change_shared(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let (change, bytes) = (CHANGES[(op.data & 0xff) as usize], op.data >> 8);
    let addresses = core.addresses(op, 1);
    core.count_shared(&addresses, bytes, lanes);
    for lane in lanes_of(lanes) {
        let Some(at) = core.shared_at(op, addresses[lane], bytes, Use::Atomic, lane) else { continue };
        let [a, b] = [2, 3].map(|i| core.number(op, i, bytes, lane));
        let place = &mut core.shared.bytes[at..][..bytes as usize];
        let old = place.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        place.copy_from_slice(&change.changed(old, a, b, bytes).to_le_bytes()[..bytes as usize]);
        core.result(op, bytes, lane, old);
    }
}

impl Core<'_> {
    fn number(&self, op: &Op, operand: usize, bytes: u32, lane: usize) -> u64 {
        let slot = usize::from(op.slots[operand]);
        match bytes {
            8 => self.registers.wides[slot].0[lane],
            _ => self.registers.words[slot].0[lane].into(),
        }
    }

    fn result(&mut self, op: &Op, bytes: u32, lane: usize, value: u64) {
        let slot = usize::from(op.slots[0]);
        match bytes {
            8 => self.registers.wides[slot].0[lane] = value,
            _ => self.registers.words[slot].0[lane] = value as u32,
        }
    }
}
