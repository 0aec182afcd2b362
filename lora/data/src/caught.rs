//! Turns panics of libraries into errors: some panic on a hostile file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread will become an error, so that its message is not printed.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs library code that may panic on a hostile file. A panic becomes an error with the panic's message, which is not printed.
///
/// After a panic, do not use anything that `run` may have changed.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                usual(panic);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    CAUGHT.set(outer);
    outcome.map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        words.unwrap_or("a panic without words").to_owned()
    })
}
