//! What the registers of a warp hold when it starts: constants, and the places of its threads.

use crate::launch::Launch;
use crate::lower::{Constant, Kernel, Special};
use crate::warp::{LANES, Lanes, Registers};

/// What registers hold that nothing has written: NaN as an f64, an f32, a bf16 or an f16. Not all bits are set, because kernels
/// give a meaning to that number.
const UNSET: u64 = 0xfff5_fff5_fff5_fff5;

impl Kernel {
    /// Returns the registers of a warp. All constants are set, except those that differ between blocks.
    pub(crate) fn registers_of_warp(&self, launch: &Launch<'_>, warp: u32) -> Registers {
        let words = self.constants.words.iter().map(|of| value(of, launch, warp).map(|bits| bits as u32));
        let wides = self.constants.wides.iter().map(|of| value(of, launch, warp));
        let nothing = (Lanes([UNSET as u32; LANES]), Lanes([UNSET; LANES]));
        Registers {
            predicates: std::iter::repeat_n(0, self.places.predicates)
                .chain(self.constants.predicates.iter().map(|holds| if *holds { u32::MAX } else { 0 }))
                .chain([0])
                .collect(),
            words: std::iter::repeat_n(nothing.0, self.places.words)
                .chain(words.map(Lanes))
                .chain([nothing.0])
                .collect(),
            wides: std::iter::repeat_n(nothing.1, self.places.wides)
                .chain(wides.map(Lanes))
                .chain([nothing.1])
                .collect(),
        }
    }

    /// Begins a block. Clears the predicates, fills the other registers with [`UNSET`], and writes the block's place into the
    /// constants.
    pub(crate) fn begin(&self, registers: &mut Registers, block: [u32; 3]) {
        registers.predicates[..self.places.predicates].fill(0);
        registers.words[..self.places.words].fill(Lanes([UNSET as u32; LANES]));
        registers.wides[..self.places.wides].fill(Lanes([UNSET; LANES]));
        for (place, constant) in self.constants.words.iter().enumerate() {
            if let Constant::Special(Special::Block(axis)) = constant {
                registers.words[self.places.words + place] = Lanes([block[*axis]; LANES]);
            }
        }
    }
}

/// Returns a constant's value in each lane of a warp. A block's place is 0 here: [`Kernel::begin`] sets it.
fn value(constant: &Constant, launch: &Launch<'_>, warp: u32) -> [u64; LANES] {
    let of_lane = |value: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(value(lane as u32)));
    match *constant {
        Constant::Bits(bits) => [bits; LANES],
        Constant::Parameter { offset, bytes, is_signed } => {
            [parameter(launch.parameters, offset as usize, bytes as usize, is_signed); LANES]
        }
        Constant::Special(special) => {
            let [x, y, _] = launch.block;
            match special {
                Special::Thread(axis) => of_lane(&|lane| {
                    let thread = warp * LANES as u32 + lane;
                    [thread % x, thread / x % y, thread / x / y][axis]
                }),
                Special::Threads(axis) => [u64::from(launch.block[axis]); LANES],
                Special::Block(_) => [0; LANES],
                Special::Blocks(axis) => [u64::from(launch.grid[axis]); LANES],
                Special::Lane => of_lane(&|lane| lane),
                Special::Warp => [u64::from(warp); LANES],
                Special::LanesBefore => of_lane(&|lane| (1 << lane) - 1),
                Special::LanesUpTo => of_lane(&|lane| u32::MAX >> (31 - lane)),
                Special::LanesAfter => of_lane(&|lane| !(u32::MAX >> (31 - lane))),
                Special::LanesFrom => of_lane(&|lane| u32::MAX << lane),
                Special::LaneMask => of_lane(&|lane| 1 << lane),
                Special::DynamicShared => [u64::from(launch.dynamic_shared); LANES],
            }
        }
    }
}

/// Reads `bytes` bytes of the parameters. Bytes beyond their end are 0. Extends the sign of 1 or 2 bytes if `is_signed`.
fn parameter(parameters: &[u8], offset: usize, bytes: usize, is_signed: bool) -> u64 {
    let mut value = [0u8; 8];
    for (to, from) in value[..bytes].iter_mut().zip(parameters.iter().skip(offset)) {
        *to = *from;
    }
    let value = u64::from_le_bytes(value);
    match (bytes, is_signed) {
        (1, true) => i64::from(value as i8) as u64,
        (2, true) => i64::from(value as i16) as u64,
        _ => value,
    }
}
