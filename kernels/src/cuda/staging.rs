//! Page-locked memory that uploads go through: the driver reads it while the host goes on.
//!
//! The memory has two halves. An upload fills the current half. When that is full, an event marks where its copies end, and the
//! upload continues in the other half once the copies from there have run.

use super::driver::{Context, Stream, checked};
use crate::{KernelError, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent_flags::CU_EVENT_DISABLE_TIMING, CUresult};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Staging {
    context: Arc<Context>,
    at: *mut u8,
    /// Bytes of a half.
    half: usize,
    current: usize,
    /// Bytes of the current half that are taken.
    taken: usize,
    /// Where the last copies of each half end.
    ends: [sys::CUevent; 2],
}

// SAFETY: `Staging` owns the memory and the events, and the driver's functions may be called from any thread.
unsafe impl Send for Staging {}

impl Staging {
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Staging> {
        context.bind()?;
        // SAFETY: the context is current, and the memory is freed on drop.
        let at = match unsafe { result::malloc_host(bytes, 0) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                return Err(KernelError::OutOfMemory {
                    name: "uploads",
                    bytes,
                    in_use: 0,
                    device: "the host, page-locked",
                });
            }
            other => checked("cuMemHostAlloc", other)?,
        };
        let event = || checked("cuEventCreate", result::event::create(CU_EVENT_DISABLE_TIMING));
        let ends = [event()?, event()?];
        Ok(Staging { context: context.clone(), at: at.cast(), half: bytes / 2, current: 0, taken: 0, ends })
    }

    /// Queues a copy of host bytes, which may be dropped as soon as this returns.
    pub(super) fn upload(&mut self, stream: &Stream, to: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            if self.taken == self.half {
                self.turn(stream)?;
            }
            let piece = (bytes.len() - done).min(self.half - self.taken);
            // SAFETY: the piece is in the current half, behind what is taken, and no copy of an earlier round reads it: `turn`
            // waited for those copies.
            let place =
                unsafe { std::slice::from_raw_parts_mut(self.at.add(self.current * self.half + self.taken), piece) };
            place.copy_from_slice(&bytes[done..done + piece]);
            // SAFETY: the piece is not written again before `turn` has waited for the copy.
            unsafe { stream.upload(to + done as u64, place)? };
            self.taken = (self.taken + piece).next_multiple_of(16).min(self.half);
            done += piece;
        }
        Ok(())
    }

    /// Makes the other half the current one, and waits until the copies from it have run.
    fn turn(&mut self, stream: &Stream) -> Result<()> {
        // SAFETY: the event and the stream are open.
        checked("cuEventRecord", unsafe { result::event::record(self.ends[self.current], stream.raw()) })?;
        self.current = 1 - self.current;
        self.taken = 0;
        // SAFETY: the event is open.
        checked("cuEventSynchronize", unsafe { result::event::synchronize(self.ends[self.current]) })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: before the driver frees the memory, it waits for the copies that read it; the events are open.
            unsafe {
                let _ = result::free_host(self.at.cast());
                for event in self.ends {
                    let _ = result::event::destroy(event);
                }
            }
        }
    }
}
