//! Which accesses are ordered: the race checker.
//!
//! Every warp has a clock, which barriers advance, and knows of every other warp of its block up to which reading of that
//! warp's clock it is ordered behind it. An access is a race with an earlier one of another thread if one of the two writes and
//! the later thread is not ordered behind the earlier. The order in which the machine ran them does not matter, so one schedule
//! finds what there is. The method is FastTrack's (Flanagan and Freund, PLDI 2009), with a warp's lanes in place of threads
//! where they only wait for each other (`__syncwarp`).

use crate::warp::LANES;
use smallvec::SmallVec;

/// Most warps of a block.
pub(crate) const WARPS: usize = 32;

/// What the warps of a block know of each other's clocks.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// `known[v][w]`: up to which reading of the clock of `w` warp `v` is ordered behind it; `known[w][w]` is the clock of `w`.
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

    /// The clock of a warp.
    pub(crate) fn now(&self, warp: u8) -> u32 {
        self.known[usize::from(warp)][usize::from(warp)]
    }

    /// The lanes of a warp have waited for each other: they are ordered behind what each of them did before.
    pub(crate) fn advance(&mut self, warp: u8) {
        self.known[usize::from(warp)][usize::from(warp)] += 1;
    }

    /// A warp comes to a barrier: adds what it knows to what the barrier passes on.
    pub(crate) fn arrive(&mut self, warp: u8, passed_on: &mut [u32; WARPS]) {
        for (to, from) in passed_on.iter_mut().zip(self.known[usize::from(warp)]) {
            *to = (*to).max(from);
        }
        self.advance(warp);
    }

    /// A warp leaves a barrier, ordered behind those that came to it.
    pub(crate) fn leave(&mut self, warp: u8, passed_on: &[u32; WARPS]) {
        let own = self.now(warp);
        for (to, from) in self.known[usize::from(warp)].iter_mut().zip(passed_on) {
            *to = (*to).max(*from);
        }
        self.known[usize::from(warp)][usize::from(warp)] = own;
    }

    /// Whether `thread` is ordered behind what another did.
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
    /// Read and written in one. Any two of them are ordered.
    Atomic,
    /// Written by a copy that is still on its way.
    CopyTo,
}

/// The accesses to two bytes that a later one may race with. (No kernel writes single bytes that others use the neighbours of.)
#[derive(Debug, Default)]
pub(crate) struct History {
    written: Option<(Access, Use)>,
    /// Since then.
    read: Users,
    /// Likewise, by atomic changes: all of them, since none orders another.
    changed: Users,
}

/// Threads that did one thing.
#[derive(Debug, Default)]
struct Users {
    blocks: Blocks,
    /// If they are of one block: its warps, mostly few.
    warps: SmallVec<[User; 4]>,
}

/// The blocks of some threads.
#[derive(Debug, Default)]
enum Blocks {
    #[default]
    None,
    One(u32),
    Several,
}

/// The last reading of a warp's clock at which it did, and the lane, or [`SEVERAL`].
#[derive(Debug, Clone, Copy)]
struct User {
    clock: u32,
    warp: u8,
    lane: u8,
}

/// In place of a lane: more than one.
const SEVERAL: u8 = 0xff;

impl History {
    /// Adds an access. Returns what it is in a race with, in words.
    pub(crate) fn add(&mut self, thread: Thread, how: Use, clocks: &Clocks) -> Option<String> {
        let access = Access { by: thread, clock: clocks.now(thread.warp) };
        let race = self.race(thread, how, clocks);
        match how {
            Use::Read => self.read.add(access),
            Use::Atomic => self.changed.add(access),
            Use::Write | Use::CopyTo => {
                self.written = Some((access, how));
                self.read.clear();
                self.changed.clear();
            }
        }
        race
    }

    /// A copy to these bytes has arrived: for its thread, and for others after a barrier.
    pub(crate) fn arrived(&mut self, thread: Thread, clocks: &Clocks) {
        self.written = Some((Access { by: thread, clock: clocks.now(thread.warp) }, Use::Write));
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
            && let Some(by) = self.changed.unordered(thread, clocks)
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

impl Users {
    fn clear(&mut self) {
        self.blocks = Blocks::None;
        self.warps.clear();
    }

    fn add(&mut self, access: Access) {
        let Access { by, clock } = access;
        match self.blocks {
            Blocks::None => self.blocks = Blocks::One(by.block),
            Blocks::One(block) if block == by.block => {}
            Blocks::One(_) | Blocks::Several => {
                self.blocks = Blocks::Several;
                self.warps.clear();
                return;
            }
        }
        match self.warps.iter_mut().find(|user| user.warp == by.warp) {
            // lanes that read at an earlier reading of the clock are ordered before those that read now
            Some(user) => {
                user.lane = if user.clock == clock && user.lane != by.lane { SEVERAL } else { by.lane };
                user.clock = clock;
            }
            None => self.warps.push(User { clock, warp: by.warp, lane: by.lane }),
        }
    }

    /// One that `thread` is not ordered behind, in words.
    fn unordered(&self, thread: Thread, clocks: &Clocks) -> Option<String> {
        let block = match self.blocks {
            Blocks::None => return None,
            Blocks::Several => return Some("other blocks".to_owned()),
            Blocks::One(block) => block,
        };
        self.warps.iter().find_map(|&User { clock, warp, lane }| {
            let by = Thread { block, warp, lane };
            (!clocks.is_behind(thread, Access { by, clock })).then(|| words(by, thread))
        })
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

/// A thread of a warp.
impl Thread {
    pub(crate) fn new(block: u32, warp: u8, lane: usize) -> Thread {
        debug_assert!(lane < LANES);
        Thread { block, warp, lane: lane as u8 }
    }
}
