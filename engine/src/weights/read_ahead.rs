//! Asks for the pages of the mapped weights one layer ahead of the computation.
//!
//! The forward pass reads the layers in order, the backward pass in reverse. If the files do not fit in memory beside everything
//! else, each layer's pages come from the disk. A page fault brings only a few of them at a time, and all threads wait for it. So
//! a thread asks for the pages of the next layer while the current one is computed. If the files fit with ease, there is no such
//! thread: their pages have been in memory since the weights were checked.

use align_kernels::cpu::unpin_this_thread;
#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// Files fit with ease if they take at most this share of the free memory.
const EASE: f64 = 0.25;

/// The bytes of a tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Pages {
    pub(super) map: Arc<Mmap>,
    pub(super) bytes: Range<usize>,
}

impl Pages {
    /// Asks the system to page these bytes in. The system may refuse, which only costs time.
    fn populate(&self) {
        let (first, len) = (self.bytes.start, self.bytes.len());
        #[cfg(target_os = "linux")]
        if self.map.advise_range(Advice::PopulateRead, first, len).is_ok() {
            return;
        }
        // for Linux before 5.14, and for other systems
        #[cfg(unix)]
        let _ = self.map.advise_range(Advice::WillNeed, first, len);
    }
}

/// Asks for the pages of the next stage of a pass. A stage is a layer; the last stage is the head.
#[derive(Debug)]
pub struct ReadAhead {
    stages: usize,
    /// The stage that was reached last.
    at: AtomicUsize,
    next: Sender<usize>,
}

/// What the computation does after the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Runs the layers in reverse.
    BackwardPass,
    /// Runs the first layer of another pass.
    NextPass,
}

impl ReadAhead {
    /// Starts the thread that reads ahead. `stages` are the pages of each stage, in the order of a pass. `None` if they fit
    /// into `free_bytes` of memory with ease, or if the thread cannot start.
    pub fn new(stages: Vec<Vec<Pages>>, free_bytes: u64) -> Option<Arc<ReadAhead>> {
        let bytes: usize = stages.iter().flatten().map(|pages| pages.bytes.len()).sum();
        if bytes as f64 <= EASE * free_bytes as f64 {
            return None;
        }
        let (next, wanted) = mpsc::channel();
        let count = stages.len();
        // if the thread cannot start, the computation still gets the pages, by one page fault after another
        std::thread::Builder::new().name("align-read-ahead".into()).spawn(move || follow(&stages, &wanted)).ok()?;
        Some(Arc::new(ReadAhead { stages: count, at: AtomicUsize::new(0), next }))
    }

    /// Notes that a pass has reached `stage`, and asks for the stage that the pass reaches next.
    pub fn reached(&self, stage: usize) {
        let before = self.at.swap(stage, Ordering::Relaxed);
        if let Some(next) = next(before, stage, self.stages) {
            // the thread lives as long as this value, so the send succeeds
            let _ = self.next.send(next);
        }
    }

    /// Notes that a pass has reached the head, and asks for what `then` reads first.
    pub fn reached_end(&self, then: Then) {
        let last = self.stages - 1;
        self.at.store(last, Ordering::Relaxed);
        let next = match then {
            Then::BackwardPass => last.saturating_sub(1),
            Then::NextPass => 0,
        };
        let _ = self.next.send(next);
    }
}

/// Returns the stage to ask for when a pass moves from `before` to `stage`. `None` if it has not moved, or if no stage follows.
/// Stage 0 always asks for stage 1: a new pass begins there, wherever the previous one ended.
fn next(before: usize, stage: usize, stages: usize) -> Option<usize> {
    match stage {
        0 => Some(1).filter(|next| *next < stages),
        stage if stage == before => None,
        stage if stage > before => Some(stage + 1).filter(|next| *next < stages),
        stage => Some(stage - 1),
    }
}

fn follow(stages: &[Vec<Pages>], wanted: &Receiver<usize>) {
    unpin_this_thread();
    while let Ok(stage) = wanted.recv() {
        // asks only for the latest stage, because the computation may have overtaken the disk
        let stage = wanted.try_iter().last().unwrap_or(stage);
        stages[stage].iter().for_each(Pages::populate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_stage_lies_in_the_direction_of_travel() {
        // With four layers and the head: a forward pass, a backward pass that visits every layer but the first twice, and the
        // start of the next step.
        let visits = [0, 1, 2, 3, 3, 3, 2, 2, 1, 1, 0, 0, 1];
        let mut before = 0;
        let asked: Vec<_> = visits
            .into_iter()
            .enumerate()
            .map(|(visit, stage)| {
                // before this visit, the pass has reached the head
                before = if visit == 4 { 4 } else { before };
                let asked = next(before, stage, 5);
                before = stage;
                asked
            })
            .collect();
        let want = [
            Some(1),
            Some(2),
            Some(3),
            Some(4),
            Some(2),
            None,
            Some(1),
            None,
            Some(0),
            None,
            Some(1),
            Some(1),
            Some(2),
        ];
        assert_eq!(asked, want);
        assert_eq!(next(4, 0, 5), Some(1), "decoding: from the head to the first layer");
        let asked_at_the_end = |then| {
            let (send, receive) = mpsc::channel();
            let ahead = ReadAhead { stages: 5, at: AtomicUsize::new(3), next: send };
            ahead.reached_end(then);
            (receive.try_recv().unwrap(), ahead.at.into_inner())
        };
        assert_eq!(asked_at_the_end(Then::BackwardPass), (3, 4), "back through the layers");
        assert_eq!(asked_at_the_end(Then::NextPass), (0, 4), "the next pass");
        assert_eq!(next(0, 0, 1), None);
    }

    #[test]
    fn small_files_need_no_thread() {
        assert!(ReadAhead::new(vec![Vec::new(), Vec::new()], 1).is_none());
    }
}
