//! Threads with large stacks, for code that recurses as deeply as a file from outside tells it to.
//!
//! A chat template can nest expressions, and values at run time, as deeply as its size and its instructions allow; the template
//! engine follows by recursion, and a stack that overflows ends the process without a message. The depth is bounded, so a stack
//! that is large enough turns such a template into an ordinary one. Stack pages that are never touched cost nothing.

use std::sync::OnceLock;

/// Bytes of stack a thread. The worst templates found within their limits (128 KiB of `-`, a list in a list for every
/// instruction) need less than half.
const STACK_BYTES: usize = 512 << 20;

/// Runs `work` on the threads with large stacks, where rayon's parallel iterators then run too. Free on such a thread.
pub(super) fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static THREADS: OnceLock<rayon::ThreadPool> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .thread_name(|i| format!("data-{i}"))
            .stack_size(STACK_BYTES)
            .build()
            .expect("the system can start as many threads as rayon's own pool has")
    });
    threads.install(work)
}
