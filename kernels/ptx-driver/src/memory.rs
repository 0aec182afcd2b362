//! Memory of the card and page-locked memory, and copies between them.

use crate::card::Card;
use crate::handles::handles;
use crate::status::Status;
use crate::work::{Source, Target, Work};
use crate::{call, set};
use std::alloc::Layout;
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// Alignment of page-locked memory, in bytes.
const PAGE: usize = 4096;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    call(|| {
        let card = handles().current()?;
        card.status()?;
        let (left, all) = card.memory.room();
        // SAFETY: the caller passes null or pointers that can be written.
        unsafe {
            set(free, left as usize)?;
            set(total, all as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Status {
    call(|| {
        let card = handles().current()?;
        card.status()?;
        let start = card.allocate(bytes as u64)?;
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(address, start) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Status {
    call(|| {
        let card = handles().current()?;
        card.free(address)?;
        card.status()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, _: c_uint) -> Status {
    call(|| {
        let card = handles().current()?;
        card.status()?;
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Status::INVALID_VALUE)?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the size of the layout is not 0.
        let at = unsafe { std::alloc::alloc_zeroed(layout) };
        if at.is_null() {
            return Err(Status::OUT_OF_MEMORY);
        }
        if let Err(status) = card.pin(at as usize, bytes) {
            // SAFETY: `at` was allocated above with this layout, and nobody else has the pointer.
            unsafe { std::alloc::dealloc(at, layout) };
            return Err(status);
        }
        // SAFETY: the caller passes null or a pointer that can be written.
        unsafe { set(memory, at.cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Status {
    call(|| {
        let card = handles().current()?;
        let bytes = card.unpin(memory as usize)?;
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Status::INVALID_VALUE)?;
        // SAFETY: `unpin` knew the address, so `cuMemHostAlloc` allocated the memory with this layout.
        unsafe { std::alloc::dealloc(memory.cast(), layout) };
        card.status()
    })
}

/// Checks that `bytes` bytes from `address` on are in one allocation. A real driver also checks this during the call.
fn inside(card: &Arc<Card>, address: u64, bytes: usize) -> Result<(), Status> {
    let (start, length) = card.memory.allocation_of(address).ok_or(Status::INVALID_VALUE)?;
    let is_inside = (address - start).checked_add(bytes as u64).is_some_and(|end| end <= length);
    if is_inside { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> Status {
    call(|| {
        let card = handles().stream(stream)?;
        if bytes == 0 {
            return card.status();
        }
        inside(&card, to, bytes)?;
        let source = match card.is_pinned(from as usize, bytes) {
            true => Source::Pinned { at: from as usize, bytes },
            // SAFETY: the caller passes `bytes` bytes that can be read during the call.
            false => Source::Copied(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec()),
        };
        card.queue(stream, Work::Upload { to, bytes: source }).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> Status {
    call(|| {
        let card = handles().stream(stream)?;
        if bytes == 0 {
            return card.status();
        }
        inside(&card, from, bytes)?;
        let is_pinned = card.is_pinned(to as usize, bytes);
        let position = card.queue(stream, Work::Download { to: Target { at: to as usize, bytes }, from })?;
        // memory that is not page-locked is written before the call returns
        if is_pinned { Ok(()) } else { card.wait(position) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Status {
    call(|| {
        let card = handles().stream(stream)?;
        if bytes == 0 {
            return card.status();
        }
        inside(&card, to, bytes)?;
        inside(&card, from, bytes)?;
        card.queue(stream, Work::Copy { to, from, bytes: bytes as u64 }).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(to: u64, value: u8, times: usize, stream: usize) -> Status {
    call(|| fill(to, vec![value], times, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD16Async(to: u64, value: u16, times: usize, stream: usize) -> Status {
    call(|| fill(to, value.to_le_bytes().to_vec(), times, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, times: usize, stream: usize) -> Status {
    call(|| fill(to, value.to_le_bytes().to_vec(), times, stream))
}

fn fill(to: u64, pattern: Vec<u8>, times: usize, stream: usize) -> Result<(), Status> {
    let card = handles().stream(stream)?;
    if times == 0 {
        return card.status();
    }
    inside(&card, to, pattern.len().checked_mul(times).ok_or(Status::INVALID_VALUE)?)?;
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(Status::INVALID_VALUE);
    }
    card.queue(stream, Work::Fill { to, pattern, times }).map(drop)
}
