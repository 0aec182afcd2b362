//! Which processor a thread runs on.

use std::sync::OnceLock;

/// The processors that this process was allowed to use when its first pinned pool began.
static ALLOWED: OnceLock<libc::cpu_set_t> = OnceLock::new();

/// Ties thread `index` of a pool to one of the processors that this process may use, if it may use exactly `threads` of them.
///
/// A thread that is woken by another is often put on the waker's processor. There the two take turns while another processor idles:
/// matrix products on two threads were seen to take as long as on one. The system places the threads of a pool of another size.
pub(in crate::cpu) fn pin(index: usize, threads: usize) {
    // SAFETY: each call gets a valid set and the size of that set; a set is plain bits, so zeros are valid.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 || libc::CPU_COUNT(&allowed) as usize != threads {
            return;
        }
        ALLOWED.get_or_init(|| allowed);
        let mut processors = (0..8 * size).filter(|processor| libc::CPU_ISSET(*processor, &allowed));
        if let Some(processor) = processors.nth(index) {
            let mut own: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(processor, &mut own);
            // if the system refuses, the thread runs as before
            libc::sched_setaffinity(0, size, &own);
        }
    }
}

/// Lets this thread run on every processor that the process may use. For threads that do not belong to a device's pool: a thread
/// that is started by a thread of the pool would stay on the same processor as that thread.
pub fn unpin_this_thread() {
    if let Some(allowed) = ALLOWED.get() {
        // SAFETY: the call gets a set and the size of that set. If the system refuses, the thread runs as before.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), allowed) };
    }
}
