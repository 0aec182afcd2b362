//! Which registers hold something that is read later.

use super::draft::{Draft, Ref};
use super::successors;
use crate::parse::{Class, Register};

/// For each instruction, the registers that are live before it.
pub(super) struct Liveness {
    before: Vec<Bits>,
    /// Largest number of 32-bit registers that are live at once. A register of 64 bits counts as two.
    pub most_words: u32,
}

/// A set of registers.
#[derive(Clone, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn add(&mut self, register: Register) {
        self.0[register as usize / 64] |= 1 << (register % 64);
    }

    fn remove(&mut self, register: Register) {
        self.0[register as usize / 64] &= !(1 << (register % 64));
    }

    /// Adds all registers of another set. Returns whether any was new.
    fn join(&mut self, other: &Bits) -> bool {
        let mut changed = false;
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            changed |= *from & !*to != 0;
            *to |= from;
        }
        changed
    }

    fn all(&self) -> impl Iterator<Item = Register> {
        self.0.iter().enumerate().flat_map(|(i, bits)| {
            let mut bits = *bits;
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(i as u32 * 64 + bit)
            })
        })
    }
}

/// Returns the registers that an instruction reads, including its guard.
fn read(draft: &Draft) -> impl Iterator<Item = Register> {
    let sources = draft.sources.iter().filter_map(|of| match of {
        Ref::Register(register) => Some(*register),
        Ref::Constant(..) | Ref::Nowhere(_) => None,
    });
    sources.chain(draft.guard.map(|(register, _)| register))
}

/// Returns the registers that an instruction writes in every lane that reads them later. Without a guard, these are all its
/// results. With a guard, these are only the results that the text does not name (registers from number `named` on): only
/// instructions of the same statement read them, in the lanes in which the guard holds.
fn written(draft: &Draft, named: usize) -> impl Iterator<Item = Register> {
    draft.results.iter().filter_map(move |of| match of {
        Ref::Register(register) if draft.guard.is_none() || *register as usize >= named => Some(*register),
        _ => None,
    })
}

/// Finds the registers that are live before each instruction. The first `named` registers are those that the text names. Walks
/// the instructions backwards until nothing changes.
pub(super) fn of(drafts: &[Draft], classes: &[Class], named: usize) -> Liveness {
    let mut before = vec![Bits(vec![0; classes.len().div_ceil(64)]); drafts.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for at in (0..drafts.len()).rev() {
            let mut live = Bits(vec![0; classes.len().div_ceil(64)]);
            for next in successors(drafts, at).into_iter().flatten() {
                live.join(&before[next]);
            }
            written(&drafts[at], named).for_each(|register| live.remove(register));
            read(&drafts[at]).for_each(|register| live.add(register));
            changed |= before[at].join(&live);
        }
    }
    let words = |live: &Bits| -> u32 {
        live.all()
            .map(|register| match classes[register as usize] {
                Class::Predicate => 0,
                Class::Word => 1,
                Class::Wide => 2,
            })
            .sum()
    };
    let most_words = before.iter().map(words).max().unwrap_or(0);
    Liveness { before, most_words }
}

impl Liveness {
    /// Returns the first and the last instruction at which each register is in use. `None` for a register that no instruction
    /// names.
    pub(super) fn ranges(&self, drafts: &[Draft], classes: &[Class]) -> Vec<Option<(usize, usize)>> {
        let mut ranges: Vec<Option<(usize, usize)>> = vec![None; classes.len()];
        let mut widen = |register: Register, at: usize| {
            let range = ranges[register as usize].get_or_insert((at, at));
            *range = (range.0.min(at), range.1.max(at));
        };
        for (at, draft) in drafts.iter().enumerate() {
            self.before[at].all().for_each(|register| widen(register, at));
            // a source stays in use through the instruction, so that no result takes its place
            read(draft).for_each(|register| widen(register, at));
            for of in &draft.results {
                if let Ref::Register(register) = of {
                    widen(*register, at);
                }
            }
        }
        ranges
    }

    /// Returns the lines that read a register which may hold nothing: for each register that is live where the kernel begins, the
    /// line of the first instruction that reads it.
    pub(super) fn unset_at(&self, drafts: &[Draft]) -> Vec<u32> {
        let mut lines: Vec<u32> = self
            .before
            .first()
            .into_iter()
            .flat_map(|live| live.all())
            .filter_map(|register| drafts.iter().find(|draft| read(draft).any(|of| of == register)))
            .map(|draft| draft.line)
            .collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}
