//! The race checker: which accesses are ordered.
//!
//! Every warp has a clock, which barriers advance. For every other warp of its block, a warp also knows a reading of that warp's
//! clock: it is ordered behind all accesses of that warp up to this reading. An access races with an earlier one by another thread
//! if at least one of the two writes and the later thread is not ordered behind the earlier access. (Two atomic changes do not
//! race.) The order in which the machine ran the accesses does not matter, so one schedule is enough to find the races between the
//! accesses that it makes. The method is FastTrack's (Flanagan and Freund, PLDI 2009), with a clock for each warp instead of each
//! thread. Lanes of one warp are ordered if they have waited for each other (`__syncwarp`).

use crate::warp::LANES;

/// Maximum number of warps of a block.
pub(crate) const WARPS: usize = 32;

/// What the warps of a block know of each other's clocks.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// Warp `v` is ordered behind warp `w` up to the reading `known[v][w]` of the clock of `w`. `known[w][w]` is the clock of
    /// `w`.
    known: Vec<[u32; WARPS]>,
}

impl Clocks {
    pub(crate) fn new(warps: usize) -> Clocks {
        let mut clocks = Clocks { known: vec![[0; WARPS]; warps] };
        for warp in 0..warps {
            clocks.known[warp][warp] = 1;
        }
        clocks
    }

    /// Returns the clock of a warp.
    pub(crate) fn now(&self, warp: u8) -> u32 {
        self.known[usize::from(warp)][usize::from(warp)]
    }

    /// Advances the clock of a warp whose lanes have waited for each other. Each lane is then ordered behind what the other lanes
    /// did before they waited.
    pub(crate) fn advance(&mut self, warp: u8) {
        self.known[usize::from(warp)][usize::from(warp)] += 1;
    }

    /// Notes that a warp comes to a barrier: adds what it knows to what the barrier passes on.
    pub(crate) fn arrive(&mut self, warp: u8, passed_on: &mut [u32; WARPS]) {
        for (to, from) in passed_on.iter_mut().zip(self.known[usize::from(warp)]) {
            *to = (*to).max(from);
        }
        self.advance(warp);
    }

    /// Notes that a warp leaves a barrier: it is now ordered behind everything that the warps did before they came to the barrier.
    pub(crate) fn leave(&mut self, warp: u8, passed_on: &[u32; WARPS]) {
        let own = self.now(warp);
        for (to, from) in self.known[usize::from(warp)].iter_mut().zip(passed_on) {
            *to = (*to).max(*from);
        }
        self.known[usize::from(warp)][usize::from(warp)] = own;
    }

    /// Whether `thread` is ordered behind an earlier access.
    fn is_behind(&self, thread: Thread, earlier: Access) -> bool {
        let Access { by, clock } = earlier;
        if thread.block != by.block {
            return false;
        }
        let known = self.known[usize::from(thread.warp)][usize::from(by.warp)];
        match thread.warp == by.warp {
            true => thread.lane == by.lane || clock < known,
            false => clock <= known,
        }
    }
}

/// A thread of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread {
    pub block: u32,
    pub warp: u8,
    pub lane: u8,
}

/// An access by a thread, with the clock of its warp.
#[derive(Debug, Clone, Copy)]
struct Access {
    by: Thread,
    clock: u32,
}

/// What is done with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
    /// Read and written in one step. Any two atomic uses are ordered.
    Atomic,
    /// Written by a copy that is still on its way.
    CopyTo,
}

/// The accesses to two adjacent bytes that a later access may race with. (One history for two bytes is enough, because no kernel
/// writes a single byte while other threads use the byte beside it.) There are many of these, so they are small.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The last write, and what kind of write it was.
    written: Option<(Access, Use)>,
    /// Reads since the last write.
    read: Users,
    /// Atomic changes since the last write. All of them are kept, since none is ordered behind another. Most bytes have none.
    changed: Option<Box<Users>>,
}

/// The threads that read some bytes, or that changed them atomically.
#[derive(Debug, Default)]
struct Users {
    who: Who,
    /// The last use of each warp, if `who` says that there are several warps. Kept for the next time.
    warps: Option<Box<[LastUse; WARPS]>>,
}

/// Which threads used some bytes.
#[derive(Debug, Default, Clone, Copy)]
enum Who {
    #[default]
    Nobody,
    /// Threads of one warp.
    Warp { by: Thread, clock: u32 },
    /// Threads of several warps of one block.
    Warps { block: u32 },
    /// Threads of several blocks.
    Blocks,
}

/// The reading of a warp's clock at its last use, and the lane that made this use, or [`SEVERAL`]. The clock is 0 if there was
/// none.
#[derive(Debug, Clone, Copy, Default)]
struct LastUse {
    clock: u32,
    lane: u8,
}

/// Stands for more than one lane.
const SEVERAL: u8 = 0xff;

impl History {
    /// Adds an access. If it races with an earlier one, returns a description of the race.
    pub(crate) fn add(&mut self, thread: Thread, how: Use, clocks: &Clocks) -> Option<String> {
        let access = Access { by: thread, clock: clocks.now(thread.warp) };
        let race = self.race(thread, how, clocks);
        match how {
            Use::Read => self.read.add(access),
            Use::Atomic => self.changed.get_or_insert_default().add(access),
            Use::Write | Use::CopyTo => {
                self.written = Some((access, how));
                self.read.who = Who::Nobody;
                self.changed = None;
            }
        }
        race
    }

    /// Notes that a copy to these bytes has arrived. It now counts as a write by the thread that waited for it.
    pub(crate) fn arrived(&mut self, thread: Thread, clocks: &Clocks) {
        self.written = Some((Access { by: thread, clock: clocks.now(thread.warp) }, Use::Write));
    }

    /// Forgets all accesses.
    pub(crate) fn clear(&mut self) {
        self.written = None;
        self.read.who = Who::Nobody;
        self.changed = None;
    }

    fn race(&self, thread: Thread, how: Use, clocks: &Clocks) -> Option<String> {
        if let Some((earlier, written)) = self.written {
            let is_ordered = written != Use::CopyTo && clocks.is_behind(thread, earlier);
            if !is_ordered {
                let by = words(earlier.by, thread);
                return Some(match written {
                    Use::CopyTo => format!("{} bytes that {by} still copies to", verb(how)),
                    _ => format!("{} what {by} wrote, without a barrier between them", verb(how)),
                });
            }
        }
        if how != Use::Atomic
            && let Some(by) = self.changed.as_ref().and_then(|users| users.unordered(thread, clocks))
        {
            return Some(format!("{} what {by} changed, without a barrier between them", verb(how)));
        }
        if how == Use::Read {
            return None;
        }
        let by = self.read.unordered(thread, clocks)?;
        Some(format!("{} what {by} read, without a barrier between them", verb(how)))
    }
}

impl LastUse {
    /// Adds a use by a lane. Lanes that used the bytes at an earlier reading of the clock are ordered before those that do now.
    fn add(&mut self, lane: u8, clock: u32) {
        self.lane = if self.clock == clock && self.lane != lane { SEVERAL } else { lane };
        self.clock = clock;
    }
}

impl Users {
    fn add(&mut self, Access { by, clock }: Access) {
        match self.who {
            Who::Nobody => self.who = Who::Warp { by, clock },
            Who::Warp { by: first, clock: then } if first.block == by.block && first.warp == by.warp => {
                let mut last = LastUse { clock: then, lane: first.lane };
                last.add(by.lane, clock);
                self.who = Who::Warp { by: Thread { lane: last.lane, ..by }, clock };
            }
            Who::Warp { by: first, clock: then } if first.block == by.block => {
                let warps = self.warps.get_or_insert_default();
                warps.fill(LastUse::default());
                warps[usize::from(first.warp)].add(first.lane, then);
                warps[usize::from(by.warp)].add(by.lane, clock);
                self.who = Who::Warps { block: by.block };
            }
            Who::Warps { block } if block == by.block => {
                self.warps.get_or_insert_default()[usize::from(by.warp)].add(by.lane, clock);
            }
            Who::Warp { .. } | Who::Warps { .. } => *self = Users { who: Who::Blocks, warps: None },
            Who::Blocks => {}
        }
    }

    /// Describes one of these threads that `thread` is not ordered behind. `None` if there is none.
    fn unordered(&self, thread: Thread, clocks: &Clocks) -> Option<String> {
        let check = |by, clock| (!clocks.is_behind(thread, Access { by, clock })).then(|| words(by, thread));
        match self.who {
            Who::Nobody => None,
            Who::Blocks => Some("other blocks".to_owned()),
            Who::Warp { by, clock } => check(by, clock),
            Who::Warps { block } => {
                (0..).zip(self.warps.iter().flat_map(|warps| warps.iter())).find_map(|(warp, last)| {
                    let LastUse { clock, lane } = *last;
                    (clock > 0).then(|| check(Thread { block, warp, lane }, clock)).flatten()
                })
            }
        }
    }
}

fn verb(how: Use) -> &'static str {
    match how {
        Use::Read => "reads",
        Use::Write => "writes",
        Use::Atomic => "changes",
        Use::CopyTo => "copies to",
    }
}

/// Names a thread as seen from another.
fn words(who: Thread, from: Thread) -> String {
    let lane = if who.lane == SEVERAL { "several lanes".to_owned() } else { format!("lane {}", who.lane) };
    match (who.block == from.block, who.warp == from.warp) {
        (false, _) => format!("block {}", who.block),
        (true, false) => format!("{lane} of warp {}", who.warp),
        (true, true) => format!("{lane} of the same warp"),
    }
}

impl Thread {
    pub(crate) fn new(block: u32, warp: u8, lane: usize) -> Thread {
        debug_assert!(lane < LANES);
        Thread { block, warp, lane: lane as u8 }
    }
}
