//! Counts of what a launch executed, for each instruction. The numbers are exact, and the same on every machine and in every run.

use crate::memory::Use;
use crate::warp::LANES;
use std::collections::HashSet;

/// Bytes of a sector, the unit in which a card reads its memory.
pub const SECTOR: u64 = 32;

/// Bytes that shared memory can deliver at once: four from each of its 32 banks.
const BANKS: u64 = 128;

/// What one instruction of a kernel did in a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often a warp executed it, with any number of lanes.
    pub executions: u64,
    /// Number of lanes that were off, summed over all executions.
    pub lanes_off: u64,
    /// Executions that accessed device memory.
    pub requests: u64,
    /// Bytes of device memory that lanes asked for.
    pub bytes: u64,
    /// Sectors of device memory that hold these bytes, counted anew for each execution.
    pub sectors: u64,
    /// Passes over shared memory, each of at most 128 bytes. More than `wavefronts_at_least` if lanes need different words of the
    /// same bank.
    pub wavefronts: u64,
    /// What `wavefronts` would be without bank conflicts.
    pub wavefronts_at_least: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.executions += other.executions;
        self.lanes_off += other.lanes_off;
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.wavefronts += other.wavefronts;
        self.wavefronts_at_least += other.wavefronts_at_least;
    }
}

/// What a launch, or one block of it, did.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// The counts of each instruction.
    pub instructions: Vec<Counts>,
    /// Every sector of device memory that was read.
    read: HashSet<u64>,
    /// Every sector of device memory that was written.
    written: HashSet<u64>,
}

impl Counters {
    pub(crate) fn new(instructions: usize) -> Counters {
        Counters { instructions: vec![Counts::default(); instructions], ..Counters::default() }
    }

    /// Returns the sum over all instructions.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.instructions.iter().for_each(|counts| total.add(*counts));
        total
    }

    /// Returns the bytes of the sectors that the launch read, and of those that it wrote. It must move at least these between the
    /// card's memory and the chip, even if nothing is fetched twice. A sector that is both read and written counts twice.
    pub fn touched_bytes(&self) -> u64 {
        (self.read.len() + self.written.len()) as u64 * SECTOR
    }

    /// Returns what the parts of a launch did together. A sector that several parts touched counts once.
    pub fn of_all(parts: &[Counters]) -> Counters {
        let mut all = Counters::new(parts.first().map_or(0, |part| part.instructions.len()));
        for part in parts {
            all.instructions.iter_mut().zip(&part.instructions).for_each(|(sum, counts)| sum.add(*counts));
            all.read.extend(&part.read);
            all.written.extend(&part.written);
        }
        all
    }

    /// Counts an access to device memory of `width` bytes a lane.
    pub(crate) fn global(&mut self, at: u32, addresses: &[u64; LANES], width: u32, lanes: u32, how: Use) {
        if lanes == 0 {
            return;
        }
        // a lane accesses at most 16 bytes, aligned (otherwise memcheck reports it), so they are in one sector
        let mut sectors = [u64::MAX; LANES];
        let mut n = 0;
        for lane in 0..LANES {
            if lanes >> lane & 1 == 1 {
                sectors[n] = addresses[lane] / SECTOR;
                n += 1;
            }
        }
        let sectors = &mut sectors[..n];
        sectors.sort_unstable();
        let counts = &mut self.instructions[at as usize];
        counts.requests += 1;
        counts.bytes += u64::from(width) * n as u64;
        for (i, sector) in sectors.iter().enumerate() {
            if i == 0 || sectors[i - 1] != *sector {
                counts.sectors += 1;
                if how != Use::Write {
                    self.read.insert(*sector);
                }
                if how != Use::Read {
                    self.written.insert(*sector);
                }
            }
        }
    }

    /// Counts an access to shared memory of `width` bytes a lane.
    pub(crate) fn shared(&mut self, at: u32, addresses: &[u64; LANES], width: u32, lanes: u32) {
        let unit = u64::from(width.max(4));
        let group = (BANKS / unit) as usize;
        let counts = &mut self.instructions[at as usize];
        for (i, addresses) in addresses.chunks(group).enumerate() {
            let lanes = lanes >> (i * group);
            let mask = if group == LANES { u32::MAX } else { (1 << group) - 1 };
            if lanes & mask == 0 {
                continue;
            }
            counts.wavefronts_at_least += 1;
            counts.wavefronts += wavefronts(addresses, unit, lanes);
        }
    }

    /// Counts a read of an 8 x 8 matrix from shared memory: eight rows of 16 bytes.
    pub(crate) fn matrix(&mut self, at: u32, rows: &[u64]) {
        let counts = &mut self.instructions[at as usize];
        counts.wavefronts_at_least += 1;
        counts.wavefronts += wavefronts(rows, 16, u32::MAX);
    }
}

/// Returns how many wavefronts the `lanes` need. Without conflicts, their bytes would fit into one. A word has `unit` bytes. A
/// place is the bank that holds a word, or the adjacent banks that hold it. The place that must deliver the most different words
/// decides.
fn wavefronts(addresses: &[u64], unit: u64, lanes: u32) -> u64 {
    let places = (BANKS / unit) as usize;
    // the words that each place has given
    let mut given: [[u64; LANES]; LANES] = [[0; LANES]; LANES];
    let mut counts = [0usize; LANES];
    for (lane, address) in addresses.iter().enumerate() {
        if lanes >> lane & 1 == 0 {
            continue;
        }
        let word = address / unit;
        let place = (word % places as u64) as usize;
        if !given[place][..counts[place]].contains(&word) {
            given[place][counts[place]] = word;
            counts[place] += 1;
        }
    }
    counts.into_iter().max().unwrap_or(0) as u64
}
