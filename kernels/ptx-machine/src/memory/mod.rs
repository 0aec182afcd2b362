//! Memory: a device's allocations, a block's shared memory, and what the checkers know of their bytes.

mod access;
mod allocations;
mod atomic;
mod copies;
mod global;
mod order;
mod shared;

pub(crate) use access::{Elements, load_global, load_local, load_shared, store_global, store_local, store_shared};
pub use allocations::{Memory, MemoryError};
pub(crate) use atomic::{atomic_form, change_global, change_shared, data as atomic_data};
pub(crate) use copies::{Copies, commit, copy_async, wait_all, wait_group};
pub(crate) use global::Global;
pub(crate) use order::{Clocks, Use, WARPS};
pub(crate) use shared::Shared;
