//! Launches: the blocks run one after the other, and the warps of a block take turns.

use crate::block::Block;
use crate::counters::Counters;
use crate::error::LaunchError;
use crate::lower::Kernel;
use crate::memory::{Global, Memory};
use crate::report::{Log, Report};
use crate::warp::LANES;

/// What to launch a kernel with.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory after those that the kernel declares.
    pub dynamic_shared: u32,
    /// The kernel's parameters, each at its offset.
    pub parameters: &'a [u8],
}

/// How to run launches.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which checkers run besides memcheck and synccheck. Those two always run.
    pub checks: Checks,
    /// Whether to count what is executed and which memory is touched.
    pub counts: bool,
    /// How the warps of a block take turns.
    pub schedule: Schedule,
    /// When copies to shared memory arrive.
    pub arrival: Arrival,
    /// Maximum number of warp instructions that a launch may run. A kernel that needs more counts as endless.
    pub limit: u64,
    /// The blocks to run, by their numbers in the grid, x first. Numbers beyond the grid are left out. `None` runs all blocks.
    pub blocks: Option<Vec<u32>>,
}

impl Default for Settings {
    /// Runs every block, with memcheck and synccheck only and without counters, for at most 10 billion warp instructions.
    fn default() -> Settings {
        Settings {
            checks: Checks::default(),
            counts: false,
            schedule: Schedule::Forward,
            arrival: Arrival::Late,
            limit: 10_000_000_000,
            blocks: None,
        }
    }
}

impl Settings {
    /// Returns the default settings, with every checker.
    pub fn checked() -> Settings {
        Settings { checks: Checks { init: true, race: true }, ..Settings::default() }
    }
}

/// The checkers that can be switched off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nobody wrote.
    pub init: bool,
    /// Accesses by two threads to the same bytes, at least one of them a write, without an order between them.
    pub race: bool,
}

/// How the warps of a block take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Always the first warp that can run, until it waits or ends.
    Forward,
    /// Always the last warp that can run, until it waits or ends.
    Reverse,
    /// A random warp for a random number of instructions (1 to 64), from this seed.
    Seeded(u64),
}

/// When the bytes of a `cp.async` are in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// At once.
    Early,
    /// When the thread waits for them.
    Late,
}

/// What a launch did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the checkers found, one report for each checker and line.
    pub reports: Vec<Report>,
    /// How often warps executed each instruction.
    pub executed: Vec<u64>,
    /// The counters of each block that was run, in order. Empty unless the settings ask for counters.
    pub blocks: Vec<Counters>,
}

impl Outcome {
    /// Returns how many warp instructions the launch executed.
    pub fn instructions(&self) -> u64 {
        self.executed.iter().sum()
    }
}

/// The sizes of a grid and of a block, each with the largest value that every card accepts.
const AXES: [(&str, u64); 6] = [
    ("the number of blocks along x", (1 << 31) - 1),
    ("the number of blocks along y", 65535),
    ("the number of blocks along z", 65535),
    ("the number of threads along x", 1024),
    ("the number of threads along y", 1024),
    ("the number of threads along z", 64),
];

/// Maximum number of bytes of shared memory of a block, on the cards that allow the most.
const MOST_SHARED: u64 = 227 << 10;

/// Maximum number of threads of a block, on every card.
const MOST_THREADS: u64 = 1024;

impl Kernel {
    /// Runs the kernel.
    ///
    /// # Errors
    /// [`LaunchError`] if the sizes do not fit the kernel or any card, if the parameters do not have the length of the kernel's,
    /// or if the kernel does not end within the limit of `settings`.
    pub fn launch(&self, memory: &Memory, launch: &Launch<'_>, settings: &Settings) -> Result<Outcome, LaunchError> {
        self.check(launch)?;
        let log = Log { kernel: self.name.clone(), ..Log::default() };
        let mut outcome = Outcome { reports: Vec::new(), executed: vec![0; self.code.len()], blocks: Vec::new() };
        let _busy = memory.busy();
        let mut block = Block::new(self, launch, settings, Global::new(memory.live(), settings.checks), log);
        let mut left = settings.limit;
        let all = launch.grid.iter().product::<u32>();
        let chosen: Box<dyn Iterator<Item = u32>> = match &settings.blocks {
            Some(chosen) => Box::new(chosen.iter().copied().filter(|number| *number < all)),
            None => Box::new(0..all),
        };
        for number in chosen {
            let mut counters = settings.counts.then(|| Counters::new(self.code.len()));
            let run = block.run(number, &mut left, &mut outcome.executed, counters.as_mut());
            outcome.blocks.extend(counters);
            if run.is_err() {
                let (kernel, limit) = (self.name.clone(), settings.limit);
                return Err(LaunchError::Endless { kernel, limit, reports: block.into_reports() });
            }
        }
        outcome.reports = block.into_reports();
        Ok(outcome)
    }

    fn check(&self, launch: &Launch<'_>) -> Result<(), LaunchError> {
        let kernel = || self.name.clone();
        let at_most = |what, got: u64, most: u64| {
            if got > most { Err(LaunchError::Size { kernel: kernel(), what, got, most }) } else { Ok(()) }
        };
        let axes = launch.grid.iter().chain(&launch.block).zip(AXES);
        for (got, (what, most)) in axes {
            at_most(what, (*got).into(), most)?;
        }
        let blocks = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
        let threads = launch.block.iter().map(|n| u64::from(*n)).product::<u64>();
        for (what, n) in [("the number of blocks", blocks), ("the number of threads", threads)] {
            if n == 0 {
                return Err(LaunchError::Empty { kernel: kernel(), what });
            }
        }
        at_most("the number of blocks", blocks, u64::from(u32::MAX))?;
        at_most("the number of threads", threads, self.max_threads.map_or(MOST_THREADS, u64::from).min(MOST_THREADS))?;
        let shared = u64::from(self.shared_bytes) + u64::from(launch.dynamic_shared);
        at_most("the bytes of shared memory", shared, MOST_SHARED)?;
        if launch.parameters.len() != self.parameter_bytes {
            let (got, want) = (launch.parameters.len(), self.parameter_bytes);
            return Err(LaunchError::Parameters { kernel: kernel(), got, want });
        }
        Ok(())
    }
}

/// Returns the mask of the lanes of warp `warp` in a block of `threads` threads.
pub(crate) fn lanes_of_warp(threads: u32, warp: u32) -> u32 {
    match threads - warp * LANES as u32 {
        n if n >= LANES as u32 => u32::MAX,
        n => (1 << n) - 1,
    }
}
