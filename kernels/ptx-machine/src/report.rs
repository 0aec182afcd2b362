//! What the checkers have found.

use crate::warp::Place;
use std::fmt;

/// A checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// An access outside every allocation, or not aligned to its width.
    Memory,
    /// A read of bytes that nobody wrote.
    Init,
    /// Accesses of two threads to the same bytes, at least one of them a write, without an order between them.
    Race,
    /// Lanes or warps that do not meet where they must.
    Sync,
}

impl Check {
    /// Returns the name of the same checker in NVIDIA's tools.
    pub fn name(self) -> &'static str {
        match self {
            Check::Memory => "memcheck",
            Check::Init => "initcheck",
            Check::Race => "racecheck",
            Check::Sync => "synccheck",
        }
    }
}

/// A fault of a kernel. Block, warp, lane and text are those of the first time that it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The checker that found it.
    pub check: Check,
    /// The kernel's name.
    pub kernel: String,
    /// Line of the PTX text.
    pub line: u32,
    /// The block's number in the grid, x first.
    pub block: u32,
    /// The warp's number in its block.
    pub warp: u8,
    /// The lane's number in its warp.
    pub lane: u8,
    /// What is wrong.
    pub text: String,
    /// How often this checker found something on this line.
    pub times: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { check, kernel, line, block, warp, lane, text, times } = self;
        let check = check.name();
        write!(f, "{check}: {kernel}, PTX line {line}, block {block}, warp {warp}, lane {lane}: {text}")?;
        if *times > 1 { write!(f, " ({times} times)") } else { Ok(()) }
    }
}

/// The reports of a launch, one for each checker and line.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub kernel: String,
    pub reports: Vec<Report>,
}

impl Log {
    pub(crate) fn add(&mut self, check: Check, line: u32, place: Place, lane: usize, text: String) {
        if let Some(report) = self.reports.iter_mut().find(|report| report.check == check && report.line == line) {
            report.times += 1;
            return;
        }
        let kernel = self.kernel.clone();
        let Place { block, warp, .. } = place;
        self.reports.push(Report { check, kernel, line, block, warp, lane: lane as u8, text, times: 1 });
    }
}
