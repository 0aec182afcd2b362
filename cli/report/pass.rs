//! The progress of a long pass over data, files or rows.

use super::say;
use super::terminal::bar;
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// A pass shows nothing before it has lasted this long.
const SHORT: Duration = Duration::from_millis(500);
/// Time between the lines of a pass without a bar.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// A long pass. It shows a bar on a terminal, and prints a line now and then elsewhere. A short pass prints nothing.
pub(crate) struct Pass {
    what: &'static str,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
}

impl Pass {
    /// Begins a pass. `what` says in a few words what the pass does.
    pub(crate) fn new(what: &'static str) -> Pass {
        let now = Instant::now();
        Pass { what, bar: None, started: now, last_line: now }
    }

    /// Returns how much was done per second, on average since the beginning.
    pub(crate) fn per_second(&self, done: u64) -> f64 {
        done as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }

    /// Shows that `done` of `total` are done, followed by `speed` if it is not empty.
    pub(crate) fn at(&mut self, done: u64, total: u64, speed: &str) {
        if self.started.elapsed() < SHORT {
            return;
        }
        let comma = if speed.is_empty() { "" } else { ", " };
        if self.bar.is_none() {
            self.bar = bar(total, "{percent:>3} %  {msg}  {eta} left");
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(format!("{}{comma}{speed}", self.what));
            }
            None if self.last_line.elapsed() >= BETWEEN_LINES => {
                self.last_line = Instant::now();
                let percent = 100.0 * done as f64 / total.max(1) as f64;
                say!("{}: {percent:.0} %{comma}{speed}", self.what);
            }
            None => {}
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
