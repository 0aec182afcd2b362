//! The registers of a warp: three files, 32 lanes each.

use crate::parse::Class;

/// Threads of a warp.
pub const LANES: usize = 32;

/// The mask of all lanes of a warp.
pub(crate) const ALL: u32 = u32::MAX;

/// What 32 lanes hold in one register.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes<T>(pub [T; LANES]);

/// The place of a register in its file. Constants have places after those of the registers, so every operand has a slot.
pub(crate) type Slot = u16;

/// The registers of a warp.
#[derive(Debug, Clone)]
pub(crate) struct Registers {
    /// A bit for each lane.
    pub predicates: Vec<u32>,
    pub words: Vec<Lanes<u32>>,
    pub wides: Vec<Lanes<u64>>,
}

/// A type that a register file holds.
pub(crate) trait Cell: Copy + Default + 'static {
    const CLASS: Class;

    fn of(registers: &Registers, slot: Slot) -> &[Self; LANES];

    fn of_mut(registers: &mut Registers, slot: Slot) -> &mut [Self; LANES];
}

impl Cell for u32 {
    const CLASS: Class = Class::Word;

    #[inline(always)]
    fn of(registers: &Registers, slot: Slot) -> &[u32; LANES] {
        &registers.words[usize::from(slot)].0
    }

    #[inline(always)]
    fn of_mut(registers: &mut Registers, slot: Slot) -> &mut [u32; LANES] {
        &mut registers.words[usize::from(slot)].0
    }
}

impl Cell for u64 {
    const CLASS: Class = Class::Wide;

    #[inline(always)]
    fn of(registers: &Registers, slot: Slot) -> &[u64; LANES] {
        &registers.wides[usize::from(slot)].0
    }

    #[inline(always)]
    fn of_mut(registers: &mut Registers, slot: Slot) -> &mut [u64; LANES] {
        &mut registers.wides[usize::from(slot)].0
    }
}

impl Registers {
    /// Returns an empty set: a placeholder while the registers are moved elsewhere.
    pub(crate) fn none() -> Registers {
        Registers { predicates: Vec::new(), words: Vec::new(), wides: Vec::new() }
    }

    /// Writes a result in the lanes of `lanes`. The other lanes keep what they hold.
    #[inline(always)]
    pub(crate) fn write<C: Cell>(&mut self, slot: Slot, values: &[C; LANES], lanes: u32) {
        let to = C::of_mut(self, slot);
        if lanes == ALL {
            *to = *values;
            return;
        }
        for i in 0..LANES {
            if lanes >> i & 1 == 1 {
                to[i] = values[i];
            }
        }
    }

    /// Writes a predicate, a bit for each lane, in the lanes of `lanes`. The other lanes keep what they hold.
    #[inline(always)]
    pub(crate) fn write_predicate(&mut self, slot: Slot, values: u32, lanes: u32) {
        let to = &mut self.predicates[usize::from(slot)];
        *to = *to & !lanes | values & lanes;
    }
}
