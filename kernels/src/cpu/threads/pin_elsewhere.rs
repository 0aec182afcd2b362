//! For systems other than Linux, which place the threads themselves.

/// Leaves the thread where the system puts it.
pub(in crate::cpu) fn pin(_index: usize, _threads: usize) {}

/// Does nothing: this thread may already run on every processor that the process may use.
pub fn unpin_this_thread() {}
