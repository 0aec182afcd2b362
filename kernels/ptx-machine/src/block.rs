//! A block: the order in which its warps run, and its barriers.

use crate::counters::Counters;
use crate::launch::{Launch, Schedule, Settings, lanes_of_warp};
use crate::lower::Kernel;
use crate::memory::{Clocks, Copies, Global, Shared, WARPS};
use crate::parse::dynamic_start;
use crate::report::{Check, Log, Report};
use crate::warp::{Barrier, Core, LANES, Place, Registers, Stop, Warp};

/// Runs the blocks of a launch, one after the other. Every block uses the same warps and shared memory again.
pub(crate) struct Block<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch<'a>,
    settings: &'a Settings,
    warps: Vec<Scheduled>,
    shared: Shared,
    global: Global,
    clocks: Clocks,
    log: Log,
    barriers: Vec<Meeting>,
    random: u64,
}

/// A warp between its turns.
struct Scheduled {
    warp: Warp,
    registers: Registers,
    live: u32,
    local: Vec<u8>,
    copies: Copies,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// The warp is at a barrier, which it reached with instruction `at`. If the barrier has a result, the result goes to the first
    /// operand of that instruction.
    Waits {
        barrier: u32,
        kind: Barrier,
        at: u32,
    },
    Done,
}

/// The arrival of a warp at a barrier. The fields are those of [`Stop::Barrier`].
struct Arrival {
    kind: Barrier,
    id: u32,
    threads: Option<u32>,
    holds: u32,
    at: u32,
}

/// The state of one of a block's sixteen barriers.
#[derive(Debug, Clone, Default)]
struct Meeting {
    /// How many threads the barrier waits for. `None` if it waits for all warps of the block that have not ended.
    threads: Option<u32>,
    /// How many threads have come. A warp counts as 32.
    come: u32,
    /// In how many threads the predicate held. `holds_in_all` is whether it held in all of them.
    holds: u32,
    holds_in_all: bool,
    passed_on: [u32; WARPS],
}

/// The launch has run as many instructions as it may.
pub(crate) struct Exhausted;

/// The number of barriers of a block.
const BARRIERS: usize = 16;

impl<'a> Block<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        launch: &'a Launch<'a>,
        settings: &'a Settings,
        global: Global,
        log: Log,
    ) -> Block<'a> {
        let threads = launch.block.iter().product::<u32>();
        let n_warps = threads.div_ceil(LANES as u32);
        let local = kernel.local_bytes as usize * LANES;
        let warps = (0..n_warps)
            .map(|warp| Scheduled {
                warp: Warp::new(0),
                registers: kernel.registers_of_warp(launch, warp),
                live: 0,
                local: vec![0xff; local],
                copies: Copies::new(settings.arrival),
                state: State::Done,
            })
            .collect();
        let random = match settings.schedule {
            Schedule::Seeded(seed) => seed,
            Schedule::Forward | Schedule::Reverse => 0,
        };
        Block {
            kernel,
            launch,
            settings,
            warps,
            shared: Shared::new(settings.checks),
            global,
            clocks: Clocks::new(n_warps as usize),
            log,
            barriers: Vec::new(),
            random,
        }
    }

    pub(crate) fn into_reports(self) -> Vec<Report> {
        self.log.reports
    }

    /// Runs the block with this number. `left` is how many instructions the launch may still run. `executed` counts the
    /// executions of each instruction.
    pub(crate) fn run(
        &mut self,
        number: u32,
        left: &mut u64,
        executed: &mut [u64],
        mut counters: Option<&mut Counters>,
    ) -> Result<(), Exhausted> {
        self.begin(number);
        while let Some((chosen, quantum)) = self.next() {
            let quantum = quantum.min(*left);
            if quantum == 0 {
                return Err(Exhausted);
            }
            let scheduled = &mut self.warps[chosen];
            let mut core = Core {
                registers: std::mem::replace(&mut scheduled.registers, Registers::none()),
                place: Place { block: number, warp: chosen as u8, at: 0 },
                live: scheduled.live,
                local: std::mem::take(&mut scheduled.local),
                copies: std::mem::replace(&mut scheduled.copies, Copies::new(self.settings.arrival)),
                shared: &mut self.shared,
                global: &mut self.global,
                clocks: &mut self.clocks,
                log: &mut self.log,
                counters: counters.as_deref_mut(),
            };
            let (stop, done) = scheduled.warp.run(&mut core, &self.kernel.code, quantum, executed);
            *left -= done;
            let Core { registers, live, local, copies, .. } = core;
            (scheduled.registers, scheduled.live, scheduled.local, scheduled.copies) = (registers, live, local, copies);
            match stop {
                Stop::Paused => {}
                Stop::Done => {
                    scheduled.state = State::Done;
                    self.meet_without();
                }
                Stop::Barrier { kind, id, threads, holds, at } => {
                    self.come(number, chosen, Arrival { kind, id, threads, holds, at })
                }
                // the warp has already reported where it is stuck; the block cannot end
                Stop::Stuck => return Ok(()),
            }
        }
        self.report_deadlock(number);
        Ok(())
    }

    /// Clears the block's memory and barriers, and puts all warps at the kernel's start.
    fn begin(&mut self, number: u32) {
        let threads = self.launch.block.iter().product::<u32>();
        let declared = match self.launch.dynamic_shared {
            0 => self.kernel.shared_bytes,
            _ => dynamic_start(self.kernel.shared_bytes) - dynamic_start(0),
        };
        self.shared.reset(declared + self.launch.dynamic_shared);
        self.clocks = Clocks::new(self.warps.len());
        self.barriers = vec![Meeting::default(); BARRIERS];
        self.barriers.iter_mut().for_each(Meeting::clear);
        let [x, y, _] = self.launch.grid;
        let block = [number % x, number / x % y, number / x / y];
        for (warp, scheduled) in self.warps.iter_mut().enumerate() {
            scheduled.live = lanes_of_warp(threads, warp as u32);
            scheduled.warp = Warp::new(scheduled.live);
            scheduled.state = State::Ready;
            scheduled.local.fill(0xff);
            scheduled.copies.reset();
            self.kernel.begin(&mut scheduled.registers, block);
        }
    }

    /// Returns the warp that runs next, and for how many instructions at most. `None` if every warp waits or is done.
    fn next(&mut self) -> Option<(usize, u64)> {
        let is_ready = |scheduled: &Scheduled| scheduled.state == State::Ready;
        match self.settings.schedule {
            Schedule::Forward => self.warps.iter().position(is_ready).map(|warp| (warp, u64::MAX)),
            Schedule::Reverse => self.warps.iter().rposition(is_ready).map(|warp| (warp, u64::MAX)),
            Schedule::Seeded(_) => {
                let ready: Vec<usize> = (0..self.warps.len()).filter(|warp| is_ready(&self.warps[*warp])).collect();
                if ready.is_empty() {
                    return None;
                }
                self.random =
                    self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let drawn = (self.random >> 33) as usize;
                Some((ready[drawn % ready.len()], 1 + (drawn / ready.len() % 64) as u64))
            }
        }
    }

    /// Adds a warp to a barrier that it has come to.
    fn come(&mut self, number: u32, chosen: usize, arrival: Arrival) {
        let Arrival { kind, id, threads, holds, at } = arrival;
        let place = Place { block: number, warp: chosen as u8, at };
        let line = self.kernel.code[at as usize].line;
        let Some(meeting) = self.barriers.get_mut(id as usize) else {
            let text = format!("barrier {id}: a block has {BARRIERS}");
            self.log.add(Check::Sync, line, place, 0, text);
            return;
        };
        let live = self.warps[chosen].live;
        if threads.is_some_and(|threads| threads % LANES as u32 != 0) {
            let text = format!("a barrier for {} threads, no whole number of warps", threads.unwrap_or(0));
            self.log.add(Check::Sync, line, place, 0, text);
        }
        if meeting.come > 0 && meeting.threads != threads {
            let words = |threads: Option<u32>| threads.map_or("all".to_owned(), |threads| threads.to_string());
            let text = format!(
                "barrier {id} for {} threads, which others wait at for {}",
                words(threads),
                words(meeting.threads)
            );
            self.log.add(Check::Sync, line, place, 0, text);
        }
        meeting.threads = threads;
        // a warp always counts as 32 threads
        meeting.come += LANES as u32;
        meeting.holds += holds.count_ones();
        meeting.holds_in_all &= holds == live;
        self.clocks.arrive(chosen as u8, &mut meeting.passed_on);
        if kind != Barrier::Arrive {
            self.warps[chosen].state = State::Waits { barrier: id, kind, at };
        }
        self.meet(id);
    }

    /// Lets the warps at a barrier go on if enough threads have come.
    fn meet(&mut self, id: u32) {
        let live = self.warps.iter().filter(|scheduled| scheduled.state != State::Done).count() as u32 * LANES as u32;
        let meeting = &mut self.barriers[id as usize];
        if meeting.come == 0 || meeting.come < meeting.threads.unwrap_or(live) {
            return;
        }
        let Meeting { holds, holds_in_all, passed_on, .. } = *meeting;
        meeting.clear();
        for warp in 0..self.warps.len() {
            let scheduled = &mut self.warps[warp];
            let State::Waits { barrier, kind, at } = scheduled.state else { continue };
            if barrier != id {
                continue;
            }
            scheduled.state = State::Ready;
            self.clocks.leave(warp as u8, &passed_on);
            let slot = self.kernel.code[at as usize].slots[0];
            let all = |holds: bool| if holds { u32::MAX } else { 0 };
            match kind {
                Barrier::Wait | Barrier::Arrive => {}
                Barrier::Count => scheduled.registers.write(slot, &[holds; LANES], scheduled.live),
                Barrier::All => scheduled.registers.write_predicate(slot, all(holds_in_all), scheduled.live),
                Barrier::Any => scheduled.registers.write_predicate(slot, all(holds > 0), scheduled.live),
            }
        }
    }

    /// Checks again the barriers that wait for all threads, since a warp that they wait for may have returned.
    fn meet_without(&mut self) {
        for id in 0..BARRIERS as u32 {
            if self.barriers[id as usize].threads.is_none() {
                self.meet(id);
            }
        }
    }

    /// Reports warps that wait for ever.
    fn report_deadlock(&mut self, number: u32) {
        let waiting: Vec<(usize, u32, u32)> = self
            .warps
            .iter()
            .enumerate()
            .filter_map(|(warp, scheduled)| match scheduled.state {
                State::Waits { barrier, at, .. } => Some((warp, barrier, self.kernel.code[at as usize].line)),
                State::Ready | State::Done => None,
            })
            .collect();
        if let Some((first, barrier, line)) = waiting.first() {
            let lines: Vec<String> = waiting.iter().map(|(warp, _, line)| format!("{warp} on line {line}")).collect();
            let text = format!("waits at barrier {barrier} for ever; warps that wait: {}", lines.join(", "));
            self.log.add(Check::Sync, *line, Place { block: number, warp: *first as u8, at: 0 }, 0, text);
        }
    }
}

impl Meeting {
    fn clear(&mut self) {
        *self = Meeting { holds_in_all: true, ..Meeting::default() };
    }
}
