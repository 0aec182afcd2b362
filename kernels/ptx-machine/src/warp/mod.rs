//! A warp: its registers, the groups of lanes that take different branches, and the loop that runs its instructions.

mod collective;
mod core;
mod matrix;
mod op;
mod registers;
mod run;

pub(crate) use self::core::{Core, Place, lanes_of};
pub(crate) use collective::{Shuffle, ballot, shuffle, sync_warp, vote_all, vote_any};
pub(crate) use matrix::{load_matrix, multiply};
pub(crate) use op::{Barrier, Flow, MOST_OPERANDS, Op};
pub use registers::LANES;
pub(crate) use registers::{Cell, Lanes, Registers, Slot};
pub(crate) use run::{Stop, Warp};
