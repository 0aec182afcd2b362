//! Tasks of uneven size over the threads of the device.
//!
//! Tasks are handed out one by one in the order of their number, so a caller that numbers the heaviest first keeps the threads
//! busy to the end. No task may read what another writes: the bits of a result do not depend on who computed it.

use crate::Result;
use crate::arena::taken;
use crate::cpu::Cpu;
use std::marker::PhantomData;
use std::ops::Range;

impl Cpu {
    /// Calls `work(task, scratch)` for each task in `0..count`. Each thread has `scratch_len` floats of its own, which hold
    /// what its last task left there.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`] for the scratch, counted under `name`.
    pub(crate) fn for_each_task(
        &self,
        name: &'static str,
        count: usize,
        scratch_len: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        let per_thread = whole_lines(scratch_len);
        let threads = self.threads().min(count);
        let mut scratch = self.take(name, size_of::<f32>() * per_thread * threads)?;
        let scratch = Disjoint::new(scratch.elements(per_thread * threads));
        self.parallel(count, |thread, task| {
            let begin = thread * per_thread;
            // SAFETY: each thread of a call has a number of its own, and the borrow ends before its next task.
            work(task, unsafe { scratch.slice(begin..begin + scratch_len) });
        });
        Ok(())
    }

    /// Bytes that [`Cpu::for_each_task`] takes.
    pub(crate) fn bytes_of_tasks(&self, count: usize, scratch_len: usize) -> usize {
        taken(size_of::<f32>() * whole_lines(scratch_len) * self.threads().min(count))
    }
}

/// Rounds up to whole cache lines: threads must not share one.
fn whole_lines(floats: usize) -> usize {
    floats.next_multiple_of(16)
}

/// Cuts a task's scratch into parts of these lengths, one after the other.
pub(crate) fn parts<const N: usize>(mut scratch: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|len| {
        let (part, rest) = std::mem::take(&mut scratch).split_at_mut(len);
        scratch = rest;
        part
    })
}

/// A slice that several threads write, each a different part.
pub(crate) struct Disjoint<'a, T> {
    at: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose users promise, at `slice`, to touch different parts; T itself may be sent.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: shared access gives elements through `slice` alone, whose callers promise different parts.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { at: slice.as_mut_ptr(), len: slice.len(), _borrow: PhantomData }
    }

    /// Borrows elements `range`.
    ///
    /// # Safety
    /// No other borrow of any of these elements is live.
    ///
    /// # Panics
    /// If the range is outside the slice.
    #[expect(clippy::mut_from_ref, reason = "that is its purpose; the caller promises disjoint ranges")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is inside {} elements", self.len);
        // SAFETY: inside the slice by the assertion, borrowed once by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(range.start), range.len()) }
    }
}
