//! Pages of the mapped weights, asked for one layer ahead of the computation.
//!
//! A pass reads the layers in order, the backward pass in the opposite one. Where the files do not fit in memory beside
//! everything else, each layer's pages come from the disk, and a fault brings a few of them at a time while all threads wait.
//! So a thread asks for the next layer's while one is computed. Where the files fit with ease their pages are there since the
//! weights were looked at, and there is no such thread.

use crate::autograd::Mode;
use align_kernels::device::unpin_this_thread;
#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// Files of at most this share of the free memory fit with ease.
const EASE: f64 = 0.25;

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub struct Pages {
    pub(super) map: Arc<Mmap>,
    pub(super) bytes: Range<usize>,
}

impl Pages {
    /// Has the system read what is not there. Whether it does is its own affair: nothing depends on it but the time.
    fn populate(&self) {
        let (first, len) = (self.bytes.start, self.bytes.len());
        #[cfg(target_os = "linux")]
        if self.map.advise_range(Advice::PopulateRead, first, len).is_ok() {
            return;
        }
        // before Linux 5.14, and on other systems
        #[cfg(unix)]
        let _ = self.map.advise_range(Advice::WillNeed, first, len);
    }
}

/// Asks for the pages of the next stage of a pass: a layer, or what stands behind the last one.
#[derive(Debug)]
pub struct ReadAhead {
    stages: usize,
    /// The stage that was reached last.
    at: AtomicUsize,
    next: Sender<usize>,
}

impl ReadAhead {
    /// Over the stages of a pass in their order; none if their pages fit into `free_bytes` of memory with ease.
    pub fn new(stages: Vec<Vec<Pages>>, free_bytes: u64) -> Option<Arc<ReadAhead>> {
        let bytes: usize = stages.iter().flatten().map(|pages| pages.bytes.len()).sum();
        if bytes as f64 <= EASE * free_bytes as f64 {
            return None;
        }
        let (next, wanted) = mpsc::channel();
        let count = stages.len();
        // without the thread the pages come by themselves, one fault after the other
        std::thread::Builder::new().name("align-read-ahead".into()).spawn(move || follow(&stages, &wanted)).ok()?;
        Some(Arc::new(ReadAhead { stages: count, at: AtomicUsize::new(0), next }))
    }

    /// The pass has reached `stage`: the one after it in the direction of travel is wanted.
    pub fn reached(&self, stage: usize) {
        let before = self.at.swap(stage, Ordering::Relaxed);
        if let Some(next) = next(before, stage, self.stages) {
            // the thread ends with this value
            let _ = self.next.send(next);
        }
    }

    /// The pass has reached what stands behind the last layer: it turns round there, or the next one begins.
    pub fn reached_end(&self, mode: Mode) {
        let last = self.stages - 1;
        self.at.store(last, Ordering::Relaxed);
        let next = match mode {
            Mode::Record => last.saturating_sub(1),
            Mode::Inference => 0,
        };
        let _ = self.next.send(next);
    }
}

/// The stage to ask for at a layer; none if the pass has not moved. One that begins comes to the first from wherever the last
/// one has ended.
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
        // the latest alone: the computation may have overtaken the disk
        let stage = wanted.try_iter().last().unwrap_or(stage);
        stages[stage].iter().for_each(Pages::populate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_stage_lies_in_the_direction_of_travel() {
        // four layers and the head: forward, then back from the head with each layer recomputed, and another step
        let visits = [0, 1, 2, 3, 3, 3, 2, 2, 1, 1, 0, 0, 1];
        let mut before = 0;
        let asked: Vec<_> = visits
            .into_iter()
            .enumerate()
            .map(|(visit, stage)| {
                // the head has been reached
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
        let told = |mode| {
            let (send, receive) = mpsc::channel();
            let ahead = ReadAhead { stages: 5, at: AtomicUsize::new(3), next: send };
            ahead.reached_end(mode);
            (receive.try_recv().unwrap(), ahead.at.into_inner())
        };
        assert_eq!(told(Mode::Record), (3, 4), "back through the layers");
        assert_eq!(told(Mode::Inference), (0, 4), "the next pass");
        assert_eq!(next(0, 0, 1), None);
    }

    #[test]
    fn small_files_need_no_thread() {
        assert!(ReadAhead::new(vec![Vec::new(), Vec::new()], 1).is_none());
    }
}
