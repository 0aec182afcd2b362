//! Reads and encodes each batch while the batch before it is computed.

use align_kernels::cpu::unpin_this_thread;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

/// Calls `each` with what `next` reads, in order, until `next` returns `None` or `each` breaks. Another thread calls `next` one
/// batch ahead. If `next` fails, the error is returned only after `each` has had the batches before it. If the system cannot
/// start a thread, `next` is called between the calls of `each`.
///
/// # Errors
/// The errors of `next` and of `each`.
pub fn for_each_ahead<T: Send, E: Send>(
    next: impl FnMut() -> Option<Result<T, E>> + Send,
    mut each: impl FnMut(T) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let next = Mutex::new(next);
    let next = || next.lock().unwrap_or_else(PoisonError::into_inner)();
    // the channel stores no batch: the one ahead waits in `send`
    let (give, take) = sync_channel(0);
    std::thread::scope(|scope| {
        let encoder = move || {
            unpin_this_thread();
            while let Some(rows) = next() {
                let failed = rows.is_err();
                // the receiver is dropped once `each` has broken or failed
                if give.send(rows).is_err() || failed {
                    return;
                }
            }
        };
        match Builder::new().name("align-encode".into()).spawn_scoped(scope, encoder) {
            // `take` is dropped here, before the scope joins the thread: a `send` that still waits then fails
            Ok(_) => until_break(take.into_iter(), &mut each),
            Err(_) => until_break(std::iter::from_fn(next), &mut each),
        }
    })
}

fn until_break<T, E>(
    batches: impl Iterator<Item = Result<T, E>>,
    each: &mut impl FnMut(T) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    for rows in batches {
        if each(rows?)?.is_break() {
            break;
        }
    }
    Ok(())
}
