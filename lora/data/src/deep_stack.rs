//! Threads with large stacks, for code that recurses as deeply as a file from outside asks for.
//!
//! A chat template can nest expressions as deeply as its size allows, and values at run time as deeply as the limit on its
//! instructions allows. The template engine recurses for each level, and a stack overflow ends the process without a message. As
//! the depth is limited, a large enough stack makes such a template harmless. Stack pages that are never touched cost nothing.

use align_kernels::cpu::unpin_this_thread;
use std::sync::OnceLock;

/// Stack sizes in bytes. A thread gets the first that the system grants (`ulimit -v` may forbid the larger ones). The worst
/// templates that were found within the limits (128 KiB of `-`; one more list around a list for every instruction) need less than
/// half of the first size.
const STACK_BYTES: [usize; 3] = [512 << 20, 64 << 20, 8 << 20];

/// Runs `work` on a thread with a large stack. Rayon's parallel iterators inside `work` run on such threads too. If the calling
/// thread is one of them, `work` runs on it. There are as many such threads as rayon's own pool has at the first call.
pub(crate) fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static THREADS: OnceLock<rayon::ThreadPool> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        let start = |stack_bytes| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads());
            let pool = pool.thread_name(|i| format!("data-{i}")).stack_size(stack_bytes);
            pool.start_handler(|_| unpin_this_thread()).build().ok()
        };
        STACK_BYTES.into_iter().find_map(start).expect("the system starts as many threads as rayon's own pool has")
    });
    threads.install(work)
}
