//! Packed operands in bytes: a task's own, and those that the tasks of a call share.

use crate::gemm::cpu::scratch::Area;
use std::cell::RefCell;

/// Returns at least `len` bytes of an area, aligned and initialised as by [`Area::floats`].
pub(super) fn bytes(area: &mut Area, len: usize) -> *mut u8 {
    area.floats(len.div_ceil(4)).cast()
}

/// Runs `work` with `len` bytes that all tasks of a call may share. The calling thread keeps them between calls.
pub(super) fn with_shared<R>(len: usize, work: impl FnOnce(*mut u8) -> R) -> R {
    thread_local!(static SHARED: RefCell<Area> = RefCell::default());
    // the area is taken, not borrowed: while a thread of the pool waits for its tasks, it may run another call, which needs an area
    let mut area = SHARED.take();
    let result = work(bytes(&mut area, len));
    SHARED.set(area);
    result
}
