//! A launch: its blocks one after the other, the warps of a block in turns.

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
    /// Bytes of shared memory behind what the kernel declares.
    pub dynamic_shared: u32,
    /// The kernel's parameters, each at its offset.
    pub parameters: &'a [u8],
}

/// How to run launches.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The checkers beside memcheck and synccheck, which are always on.
    pub checks: Checks,
    /// Whether to count what is executed and which memory is touched.
    pub counts: bool,
    /// In which turns the warps of a block run.
    pub schedule: Schedule,
    /// When copies to shared memory arrive.
    pub arrival: Arrival,
    /// Warp instructions of a launch at most: beyond them the kernel is taken to be endless.
    pub limit: u64,
    /// The blocks to run, by their numbers in the grid, x first; numbers beyond the grid are left out. `None`: all.
    pub blocks: Option<Vec<u32>>,
}

impl Default for Settings {
    /// Every block, memcheck and synccheck, no counters; 10 thousand million warp instructions.
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
    /// As the default, with every checker.
    pub fn checked() -> Settings {
        Settings { checks: Checks { init: true, race: true }, ..Settings::default() }
    }
}

/// Checkers that a launch can do without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nobody wrote.
    pub init: bool,
    /// Accesses of two threads without an order.
    pub race: bool,
}

/// In which turns the warps of a block run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// The first warp until it waits, then the next.
    Forward,
    /// The last warp first.
    Reverse,
    /// Some warp for some instructions, by a seed.
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
    /// Executions of each instruction by a warp.
    pub executed: Vec<u64>,
    /// What else was counted, if the settings ask for it: for each block that was run, in order.
    pub blocks: Vec<Counters>,
}

impl Outcome {
    /// Warp instructions of the launch.
    pub fn instructions(&self) -> u64 {
        self.executed.iter().sum()
    }
}

/// The sizes of a grid and of a block, and what they are at most on every card.
const AXES: [(&str, u64); 6] = [
    ("the number of blocks along x", (1 << 31) - 1),
    ("the number of blocks along y", 65535),
    ("the number of blocks along z", 65535),
    ("the number of threads along x", 1024),
    ("the number of threads along y", 1024),
    ("the number of threads along z", 64),
];

/// Bytes of shared memory of a block at most, on the card with the most.
const MOST_SHARED: u64 = 227 << 10;

/// Threads of a block at most, on every card.
const MOST_THREADS: u64 = 1024;

impl Kernel {
    /// Runs the kernel.
    ///
    /// # Errors
    /// [`LaunchError`] for sizes that do not fit the kernel or any card, and for a kernel that does not end.
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

/// Lanes of warp `warp` of a block of `threads` threads.
pub(crate) fn lanes_of_warp(threads: u32, warp: u32) -> u32 {
    match threads - warp * LANES as u32 {
        n if n >= LANES as u32 => u32::MAX,
        n => (1 << n) - 1,
    }
}
