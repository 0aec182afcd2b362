//! Memory that a thread packs into, kept between calls.

use crate::arena::Counted;
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// One cache line, so that packed vectors do not straddle two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A piece of memory that only grows.
#[derive(Default)]
pub(super) struct Area {
    lines: Vec<Line>,
    counted: Counted,
}

impl Area {
    /// Returns the address of at least `len` floats, which is a multiple of 64. The floats are initialised, but their content is
    /// unspecified.
    pub(super) fn floats(&mut self, len: usize) -> *mut f32 {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            // the old memory is freed first, so that its content is not copied and does not exist beside the new memory
            self.lines = Vec::new();
            self.lines = vec![Line::zeroed(); lines];
            self.counted.set("gemm.packed", lines * size_of::<Line>());
        }
        bytemuck::cast_slice_mut::<Line, f32>(&mut self.lines).as_mut_ptr()
    }

    /// Returns the bytes of an area that was asked for at most `len` floats.
    pub(super) fn bytes_of(len: usize) -> usize {
        len.div_ceil(16) * size_of::<Line>()
    }
}

/// What one task packs. The memory is kept for later tasks. On vectors it is at most 1.2 MiB a thread, because the size of a task
/// is limited.
///
/// The order of the areas is that of [`Packed`](crate::device::Packed).
#[derive(Default)]
pub(super) struct Scratch {
    /// The task's rows of the left operand, if they are not read in place.
    pub(super) left: Area,
    /// One panel of the right operand.
    pub(super) right: Area,
    /// Sums over the depth blocks so far, if the output cannot hold them.
    pub(super) partial: Area,
}

/// Runs `work` with this thread's scratch. `work` must not start another task on this thread, which would need the same scratch.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    SCRATCH.with(|scratch| work(&mut scratch.borrow_mut()))
}
