//! Splits work over the threads of the processor.

pub(crate) mod blocks;
#[cfg_attr(not(target_os = "linux"), path = "pin_elsewhere.rs")]
mod pin;
pub(crate) mod tasks;
pub(crate) mod team;

pub(super) use pin::pin;
pub use pin::unpin_this_thread;
