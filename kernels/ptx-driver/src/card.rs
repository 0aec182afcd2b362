//! A card: its memory, its streams, and what has gone wrong on it.

use crate::config::{Config, Mode};
use crate::status::Status;
use crate::work::{Position, Work};
use ptx_machine::driver::KernelCounts;
use ptx_machine::{Check, Launch, LaunchError, Memory, MemoryError, Module, Report};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

/// A card. Everything that is queued on it runs one after the other.
pub(crate) struct Card {
    pub config: Config,
    pub memory: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<usize, Stream>,
    /// Page-locked host memory: the size in bytes of each range, by its address.
    pinned: BTreeMap<usize, usize>,
    /// The first fault. Every later call that needs the card returns it again.
    fault: Option<Status>,
    reports: Vec<Report>,
    tally: Tally,
    /// What each kernel did, by its name, if launches are counted.
    counts: BTreeMap<String, KernelCounts>,
}

/// Counts of the calls that a card has got so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub requests: u64,
    pub launches: u64,
    /// Calls that waited for the card.
    pub waits: u64,
}

/// A stream. Its work runs in the order in which it was queued.
#[derive(Default)]
struct Stream {
    queue: VecDeque<Work>,
    /// The number of pieces of work that were queued. `done` is how many of them have run or were dropped after a fault.
    queued: u64,
    done: u64,
}

impl Card {
    pub(crate) fn new(config: Config) -> Card {
        let memory = Memory::new(config.memory);
        let mut state = State::default();
        // the default stream
        state.streams.insert(0, Stream::default());
        Card { config, memory, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // a panic in a launch is a defect of the machine; the state can still be read after it
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns the first fault of the card as an error, if there was one.
    pub(crate) fn status(&self) -> Result<(), Status> {
        self.state().fault.map_or(Ok(()), Err)
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state().tally
    }

    /// Returns what the checkers have found.
    pub(crate) fn reports(&self) -> Vec<String> {
        self.state().reports.iter().map(ToString::to_string).collect()
    }

    /// Returns what each kernel did, by its name. Empty unless launches are counted.
    pub(crate) fn counts(&self) -> BTreeMap<String, KernelCounts> {
        self.state().counts.clone()
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64, Status> {
        let mut state = self.state();
        let number = state.tally.requests;
        state.tally.requests += 1;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if self.config.fails == Some(number) {
            return Err(Status::OUT_OF_MEMORY);
        }
        let made = if self.config.sparse { self.memory.allocate_sparse(bytes) } else { self.memory.allocate(bytes) };
        made.map_err(|_| Status::OUT_OF_MEMORY)
    }

    /// Frees memory at once. A real driver first waits for work that may use the memory, so it hides that the work was still
    /// queued. Here, such work faults.
    pub(crate) fn free(&self, address: u64) -> Result<(), Status> {
        self.memory.free(address).map_err(|_| Status::INVALID_VALUE)
    }

    pub(crate) fn pin(&self, address: usize, bytes: usize) -> Result<(), Status> {
        let mut state = self.state();
        let number = state.tally.requests;
        state.tally.requests += 1;
        if self.config.fails == Some(number) {
            return Err(Status::OUT_OF_MEMORY);
        }
        state.pinned.insert(address, bytes);
        Ok(())
    }

    /// Ends the page-locking of the memory that starts at `address`, after all queued work has run. Returns the size of the
    /// memory in bytes.
    pub(crate) fn unpin(&self, address: usize) -> Result<usize, Status> {
        self.finish();
        self.state().pinned.remove(&address).ok_or(Status::INVALID_VALUE)
    }

    /// Whether all of these bytes are page-locked.
    pub(crate) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        let state = self.state();
        let before = state.pinned.range(..=address).next_back();
        before.is_some_and(|(start, length)| (address - start).checked_add(bytes).is_some_and(|end| end <= *length))
    }

    pub(crate) fn open(&self, stream: usize) {
        self.state().streams.insert(stream, Stream::default());
    }

    /// Queues work, and in eager mode runs it. Returns its position on the stream.
    pub(crate) fn queue(&self, stream: usize, work: Work) -> Result<Position, Status> {
        let mut state = self.state();
        state.fault.map_or(Ok(()), Err)?;
        let known = state.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        known.queue.push_back(work);
        known.queued += 1;
        let position = Position { stream, at: known.queued };
        if self.config.mode == Mode::Eager {
            self.run(&mut state, position);
            state.fault.map_or(Ok(()), Err)?;
        }
        Ok(position)
    }

    /// Returns the position after all work that is queued on a stream now.
    pub(crate) fn end_of(&self, stream: usize) -> Result<Position, Status> {
        let state = self.state();
        let known = state.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        Ok(Position { stream, at: known.queued })
    }

    /// Waits until the work of a stream up to a position has run.
    pub(crate) fn wait(&self, position: Position) -> Result<(), Status> {
        let mut state = self.state();
        state.tally.waits += 1;
        self.run(&mut state, position);
        state.fault.map_or(Ok(()), Err)
    }

    pub(crate) fn wait_for(&self, stream: usize) -> Result<(), Status> {
        let end = self.end_of(stream)?;
        self.wait(end)
    }

    /// Waits until the work of all streams has run.
    pub(crate) fn wait_for_all(&self) -> Result<(), Status> {
        self.state().tally.waits += 1;
        self.finish();
        self.status()
    }

    /// Runs the queued work of all streams.
    fn finish(&self) {
        let mut state = self.state();
        let ends: Vec<Position> =
            state.streams.iter().map(|(stream, of)| Position { stream: *stream, at: of.queued }).collect();
        for end in ends {
            self.run(&mut state, end);
        }
    }

    /// Runs the queued work of a stream up to a position.
    fn run(&self, state: &mut State, until: Position) {
        loop {
            let Some(stream) = state.streams.get_mut(&until.stream).filter(|stream| stream.done < until.at) else {
                return;
            };
            let work = stream.queue.pop_front().expect("what is queued and not done is in the queue");
            stream.done += 1;
            // after a fault nothing runs
            if state.fault.is_some() {
                continue;
            }
            // a panic is a defect of the machine, and becomes a fault like any other: the work queued behind it must not run
            let performed = catch_unwind(AssertUnwindSafe(|| self.perform(state, work)));
            if let Err(status) = performed.unwrap_or(Err(Status::UNKNOWN)) {
                state.fault = Some(status);
            }
        }
    }

    fn perform(&self, state: &mut State, work: Work) -> Result<(), Status> {
        let outside = |_: MemoryError| Status::ILLEGAL_ADDRESS;
        match work {
            Work::After(position) => self.run(state, position),
            Work::Mark => {}
            Work::Upload { to, bytes } => {
                bytes.with(|bytes| self.memory.write(to, bytes)).map_err(outside)?;
            }
            Work::Download { mut to, from } => to.with(|bytes| self.memory.read(from, bytes)).map_err(outside)?,
            Work::Copy { to, from, bytes } => self.memory.copy(to, from, bytes).map_err(outside)?,
            Work::Fill { to, pattern, times } => {
                self.memory.write(to, &pattern.repeat(times)).map_err(outside)?;
            }
            Work::Launch { module, kernel, grid, block, dynamic_shared, parameters } => {
                let number = state.tally.launches;
                state.tally.launches += 1;
                if self.config.lost == Some(number) {
                    return Err(Status::LAUNCH_FAILED);
                }
                if self.config.launches {
                    let launch = Launch { grid, block, dynamic_shared, parameters: &parameters };
                    self.launch(state, &module, kernel, &launch)?;
                }
            }
        }
        Ok(())
    }

    fn launch(
        &self,
        state: &mut State,
        module: &Arc<Module>,
        kernel: usize,
        launch: &Launch<'_>,
    ) -> Result<(), Status> {
        let kernel = &module.kernels()[kernel];
        let settings = self.config.settings_of(launch.grid);
        let outcome = match kernel.launch(&self.memory, launch, &settings) {
            Ok(outcome) => outcome,
            Err(LaunchError::Endless { kernel, limit, reports }) => {
                eprintln!("PTX machine: {kernel}: stopped after {limit} warp instructions");
                reports.iter().for_each(|report| eprintln!("PTX machine: {report}"));
                state.reports.extend(reports);
                return Err(Status::LAUNCH_TIMEOUT);
            }
            Err(error) => {
                eprintln!("PTX machine: {error}");
                return Err(Status::INVALID_VALUE);
            }
        };
        if self.config.settings.counts {
            state.counts.entry(kernel.name().to_owned()).or_default().add_launch(&outcome.blocks);
        }
        for report in &outcome.reports {
            eprintln!("PTX machine: {report}");
        }
        let has = |check: Check| outcome.reports.iter().any(|report| report.check == check);
        let status = match (outcome.reports.is_empty(), has(Check::Memory)) {
            (true, _) => Ok(()),
            (false, true) => Err(Status::ILLEGAL_ADDRESS),
            (false, false) => Err(Status::LAUNCH_FAILED),
        };
        state.reports.extend(outcome.reports);
        status
    }
}
