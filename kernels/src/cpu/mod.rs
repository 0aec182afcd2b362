//! The host: its threads, its instruction sets, its memory. Vector code is written once for all instruction sets.

mod free_memory;
mod isa;
pub(crate) mod pages;
pub(crate) mod threads;
mod times;
#[cfg_attr(not(target_arch = "x86_64"), path = "unit/absent.rs")]
pub(crate) mod unit;
pub(crate) mod vectors;

pub use free_memory::free_bytes;
pub use isa::Isa;
pub use threads::unpin_this_thread;
pub use times::KernelTime;
pub(crate) use times::Timed;

use crate::arena::{Block, Memory};
use crate::device::memory_report::MemoryReport;
use crate::{KernelError, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use threads::team::Team;
use times::Times;

/// The processor as a device: its threads, its instruction set and its memory.
#[derive(Debug)]
pub struct Cpu {
    pool: rayon::ThreadPool,
    isa: Isa,
    memory: Arc<Memory>,
    team: Arc<Team>,
    times: Times,
}

impl Cpu {
    /// Starts `threads` threads (default: as many as this process may use).
    ///
    /// # Errors
    /// [`KernelError::Threads`] if the pool cannot start.
    pub(crate) fn new(threads: Option<usize>, isa: Isa) -> Result<Cpu> {
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let memory = Arc::new(Memory::new("cpu"));
        let home = memory.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("align-{index}"))
            .start_handler(move |index| {
                threads::pin(index, threads);
                home.adopt_this_thread();
            })
            .build()
            .map_err(|error| KernelError::Threads { threads, reason: error.to_string() })?;
        Ok(Cpu { pool, isa, memory, team: Arc::new(Team::new()), times: Times::default() })
    }

    /// Takes a block of at least `bytes` bytes. They are initialised, but may have any values.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] if the system has no more memory.
    pub(crate) fn take(&self, name: &'static str, bytes: usize) -> Result<Block> {
        self.memory.take(name, bytes)
    }

    pub(crate) fn memory(&self) -> MemoryReport {
        self.memory.report()
    }

    pub(crate) fn kernel_times(&self) -> BTreeMap<&'static str, KernelTime> {
        self.times.so_far()
    }

    /// Measures the time until the result is dropped, and adds it to the time of `kernel`.
    pub(crate) fn timed(&self, kernel: &'static str) -> Timed<'_> {
        self.times.start(kernel)
    }

    /// Runs `work` on the pool.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }
}
