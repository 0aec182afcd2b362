//! Memory straight from the operating system: whole pages, zero until they are written, and not there until they are touched.
//!
//! The allocator of the standard library would write the zeros of an aligned block itself, on one thread and before the
//! kernel can be asked for huge pages.

use std::ptr::NonNull;

/// The size of a huge page on x86-64 and on arm64 with pages of 4 KiB.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// `bytes` zeros at a multiple of `align`, a power of two; none if the system refuses. `bytes` is a positive multiple of
/// 64 KiB, so of every page size in use.
#[cfg(unix)]
pub(super) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    // a mapping begins at a page; for more, more is mapped and both ends are given back
    let total = bytes.checked_add(align)?;
    // SAFETY: a new private mapping touches no memory that is in use.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            total,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return None;
    }
    let before = at.addr().next_multiple_of(align) - at.addr();
    let after = align - before;
    // SAFETY: `before + bytes + after` is the mapping just made, nobody knows of it yet, and the parts are whole pages: `align`
    // and the mapping's address are multiples of the page, so `before` is one.
    unsafe {
        let start = at.cast::<u8>().add(before);
        if before > 0 {
            libc::munmap(at, before);
        }
        if after > 0 {
            libc::munmap(start.add(bytes).cast(), after);
        }
        #[cfg(target_os = "linux")]
        if align >= HUGE_PAGE {
            // the advice changes no content, and its failure does not matter
            libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        }
        NonNull::new(start)
    }
}

/// Gives back what [`map`] gave for the same sizes.
///
/// # Safety
/// Nobody uses the memory any more.
#[cfg(unix)]
pub(super) unsafe fn unmap(at: NonNull<u8>, bytes: usize, _align: usize) {
    // SAFETY: the range is a mapping of ours, by the contract.
    unsafe { libc::munmap(at.as_ptr().cast(), bytes) };
}

/// As on Unix, from the standard library's allocator.
#[cfg(not(unix))]
pub(super) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, align).ok()?;
    // SAFETY: `bytes` is positive.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// Gives back what [`map`] gave for the same sizes.
///
/// # Safety
/// Nobody uses the memory any more.
#[cfg(not(unix))]
pub(super) unsafe fn unmap(at: NonNull<u8>, bytes: usize, align: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, align).expect("`map` made this layout");
    // SAFETY: `map` allocated it with this layout; nobody uses it, by the contract.
    unsafe { std::alloc::dealloc(at.as_ptr(), layout) };
}
