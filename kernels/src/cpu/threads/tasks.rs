//! Runs tasks of uneven size on the threads of the device.
//!
//! Tasks are handed out one by one in the order of their numbers, so a caller that numbers the heaviest first keeps the threads
//! busy to the end. No task may read what another writes, so the bits of a result do not depend on which thread computed it.

use crate::Result;
use crate::arena::taken;
use crate::cpu::Cpu;
use std::marker::PhantomData;
use std::ops::Range;

impl Cpu {
    /// Calls `work(task, scratch)` for each task in `0..count`. Each thread has its own `scratch_len` floats, which still hold
    /// what its last task wrote.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`] if there is no memory for the scratch, which is counted under `name`.
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
            // SAFETY: each thread of a call has a different number, and the borrow ends before its next task.
            work(task, unsafe { scratch.slice(begin..begin + scratch_len) });
        });
        Ok(())
    }

    /// Returns the bytes of scratch that [`Cpu::for_each_task`] allocates.
    pub(crate) fn bytes_of_tasks(&self, count: usize, scratch_len: usize) -> usize {
        taken(size_of::<f32>() * whole_lines(scratch_len) * self.threads().min(count))
    }
}

/// Rounds up to whole cache lines: two threads must not share a line.
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

/// A slice to which several threads write, each to a different part.
pub(crate) struct Disjoint<'a, T> {
    at: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose users promise, when they call `slice`, to touch different parts; T itself may be sent.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: elements can be reached only through `slice`, whose callers promise to borrow different parts.
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
        // SAFETY: the assertion keeps the range inside the slice, and the caller promises that no other borrow of it is live.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(range.start), range.len()) }
    }
}
