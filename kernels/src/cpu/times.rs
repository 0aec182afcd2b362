//! Measures how long each kernel runs, to show where the time of a step goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls of one kernel, and how long they took together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// How often it was called. Calls from within another kernel are not counted.
    pub calls: u64,
    /// Wall-clock time of these calls.
    pub total: Duration,
}

/// The times of a device's kernels.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// The times by kernel, named as in the cases. A poisoned lock is used, too: a panic leaves no invalid data behind.
    so_far: Mutex<BTreeMap<&'static str, KernelTime>>,
    /// How many kernels run now. A kernel that runs within another one is part of that one.
    running: AtomicUsize,
}

/// Measures one run of a kernel. When dropped, adds the time since its start to the time of the kernel, unless it started within
/// another kernel.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    times: &'a Times,
    kernel: &'static str,
    started: Option<Instant>,
}

impl Times {
    pub(crate) fn start(&self, kernel: &'static str) -> Timed<'_> {
        let outermost = self.running.fetch_add(1, Ordering::Relaxed) == 0;
        Timed { times: self, kernel, started: outermost.then(Instant::now) }
    }

    pub(crate) fn so_far(&self) -> BTreeMap<&'static str, KernelTime> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.times.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(started) = self.started {
            let mut times = self.times.so_far.lock().unwrap_or_else(PoisonError::into_inner);
            let time = times.entry(self.kernel).or_default();
            time.calls += 1;
            time.total += started.elapsed();
        }
    }
}
