//! What can be queued on a stream.

use ptx_machine::Module;
use std::sync::Arc;

/// A place in the order of a stream: after its first `at` pieces of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub stream: usize,
    pub at: u64,
}

/// A piece of work.
pub(crate) enum Work {
    /// Waits for another stream.
    After(Position),
    /// Nothing: a place that others wait for.
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
    /// Memory of the process that is copied when the call is made.
    Copied(Vec<u8>),
    /// Page-locked memory, read when the copy runs.
    Pinned { at: usize, bytes: usize },
}

impl Source {
    /// Hands out the bytes.
    pub(crate) fn with<R>(&self, use_bytes: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Source::Copied(bytes) => use_bytes(bytes),
            // SAFETY: the driver's contract: page-locked memory stays until what uses it has run. `Card::unpin` waits for that
            // before the memory is given back.
            Source::Pinned { at, bytes } => use_bytes(unsafe { std::slice::from_raw_parts(*at as *const u8, *bytes) }),
        }
    }
}

/// Where a download goes: page-locked memory, or memory of the process whose owner waits.
pub(crate) struct Target {
    pub at: usize,
    pub bytes: usize,
}

impl Target {
    /// Hands out the bytes.
    pub(crate) fn with<R>(&mut self, use_bytes: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: as for `Source::Pinned`; a target that is not page-locked is waited for within the call.
        use_bytes(unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.bytes) })
    }
}
