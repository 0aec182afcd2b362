//! What can be queued on a stream.

use ptx_machine::Module;
use std::sync::Arc;

/// A position on a stream: after the first `at` pieces of work that were queued on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub stream: usize,
    pub at: u64,
}

/// A piece of work.
pub(crate) enum Work {
    /// Waits until a stream has reached this position.
    After(Position),
    /// Does nothing. An event stores its position, so that streams and the host can wait for it.
    Mark,
    Upload {
        to: u64,
        bytes: Source,
    },
    Download {
        to: Target,
        from: u64,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        times: usize,
    },
    Launch {
        module: Arc<Module>,
        kernel: usize,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        parameters: Vec<u8>,
    },
}

/// Where an upload comes from.
pub(crate) enum Source {
    /// A copy of the program's memory, made during the call.
    Copied(Vec<u8>),
    /// Page-locked memory, read when the copy runs.
    Pinned { at: usize, bytes: usize },
}

impl Source {
    /// Calls `use_bytes` with the bytes.
    pub(crate) fn with<R>(&self, use_bytes: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Source::Copied(bytes) => use_bytes(bytes),
            // SAFETY: `Card::unpin` runs all queued work before page-locked memory is freed, so the memory is still there.
            Source::Pinned { at, bytes } => use_bytes(unsafe { std::slice::from_raw_parts(*at as *const u8, *bytes) }),
        }
    }
}

/// The memory that a download is written to. If it is not page-locked, the call itself waits until the download has run.
pub(crate) struct Target {
    pub at: usize,
    pub bytes: usize,
}

impl Target {
    /// Calls `use_bytes` with the bytes.
    pub(crate) fn with<R>(&mut self, use_bytes: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: page-locked memory is freed only after all queued work has run; the call waits for a download to other memory.
        use_bytes(unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.bytes) })
    }
}
