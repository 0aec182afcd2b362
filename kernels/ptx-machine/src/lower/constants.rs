//! Operands that no instruction writes: numbers in the text, parameters, and special registers such as `%tid`.

use crate::parse::Class;
use std::collections::HashMap;

/// The constants of a kernel, by class. Their values are set before a warp runs.
#[derive(Debug, Default)]
pub(crate) struct Constants {
    pub predicates: Vec<bool>,
    pub words: Vec<Constant>,
    pub wides: Vec<Constant>,
    places: HashMap<(Class, Constant), usize>,
}

/// An operand that no instruction writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    /// A number, as bits.
    Bits(u64),
    /// A number of `bytes` bytes in the parameters. If `is_signed`, it keeps its sign in a wider register.
    Parameter {
        offset: u32,
        bytes: u32,
        is_signed: bool,
    },
    Special(Special),
}

/// A special register of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// `%tid` along an axis: 0 for x, 1 for y, 2 for z.
    Thread(usize),
    /// `%ntid` along an axis.
    Threads(usize),
    /// `%ctaid` along an axis.
    Block(usize),
    /// `%nctaid` along an axis.
    Blocks(usize),
    Lane,
    Warp,
    /// The mask of the lanes before this one.
    LanesBefore,
    /// The mask of the lanes up to this one.
    LanesUpTo,
    /// The mask of the lanes after this one.
    LanesAfter,
    /// The mask of the lanes from this one on.
    LanesFrom,
    /// The mask of this lane.
    LaneMask,
    /// Bytes of dynamic shared memory.
    DynamicShared,
}

impl Special {
    pub(super) fn parse(name: &str) -> Option<Special> {
        let axis = |name: &str| ["x", "y", "z"].iter().position(|axis| *axis == name);
        Some(match name.split_once('.') {
            Some(("tid", of)) => Special::Thread(axis(of)?),
            Some(("ntid", of)) => Special::Threads(axis(of)?),
            Some(("ctaid", of)) => Special::Block(axis(of)?),
            Some(("nctaid", of)) => Special::Blocks(axis(of)?),
            None if name == "laneid" => Special::Lane,
            None if name == "warpid" => Special::Warp,
            None if name == "lanemask_lt" => Special::LanesBefore,
            None if name == "lanemask_le" => Special::LanesUpTo,
            None if name == "lanemask_gt" => Special::LanesAfter,
            None if name == "lanemask_ge" => Special::LanesFrom,
            None if name == "lanemask_eq" => Special::LaneMask,
            None if name == "dynamic_smem_size" => Special::DynamicShared,
            _ => return None,
        })
    }
}

impl Constants {
    /// Returns the place of a constant among those of its class. Adds the constant if it is new.
    pub(super) fn place(&mut self, class: Class, constant: Constant) -> usize {
        if let Some(place) = self.places.get(&(class, constant)) {
            return *place;
        }
        let place = match class {
            Class::Predicate => {
                self.predicates.push(constant != Constant::Bits(0));
                self.predicates.len() - 1
            }
            Class::Word => {
                self.words.push(constant);
                self.words.len() - 1
            }
            Class::Wide => {
                self.wides.push(constant);
                self.wides.len() - 1
            }
        };
        self.places.insert((class, constant), place);
        place
    }
}
