//! Which processor a thread of the pool runs on.

/// Ties thread `index` of a pool of `threads` to one of the processors that this process may use, if there is one for each.
///
/// A thread that is woken by another is often put on the waker's processor, where the two take turns while another one idles:
/// products on two threads were seen to take as long as on one. A pool of another size is left to the system.
pub(super) fn pin(index: usize, threads: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls get a set of their own, of the size that they are told; a set is plain bits, of which zeros are valid.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 || libc::CPU_COUNT(&allowed) as usize != threads {
            return;
        }
        let mut processors = (0..8 * size).filter(|processor| libc::CPU_ISSET(*processor, &allowed));
        if let Some(processor) = processors.nth(index) {
            let mut own: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(processor, &mut own);
            // where the system refuses, the thread runs as before
            libc::sched_setaffinity(0, size, &own);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (index, threads);
}
