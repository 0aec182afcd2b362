//! Systems other than Linux place the threads themselves.

/// Leaves the thread where the system puts it.
pub(in crate::cpu) fn pin(_index: usize, _threads: usize) {}

/// Lets this thread run on every processor that the process may use: it does.
pub fn unpin_this_thread() {}
