//! Memory straight from the operating system, in whole pages. A page reads as zeros until it is written, and takes no memory
//! until it is touched.
//!
//! The allocator of the standard library would write the zeros of an aligned block itself, on one thread, and before the
//! operating system can be asked for huge pages.

use std::ptr::NonNull;

/// The size of a huge page on x86-64 and on arm64 with pages of 4 KiB.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Maps `bytes` bytes of zeros at an address that is a multiple of [`HUGE_PAGE`]. `bytes` must be a positive multiple of
/// [`HUGE_PAGE`] too. Returns `None` if the system refuses.
#[cfg(unix)]
pub(crate) fn map(bytes: usize) -> Option<NonNull<u8>> {
    // a mapping may begin at any page, so this maps more and gives back what is before and after the aligned part
    let total = bytes.checked_add(HUGE_PAGE)?;
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
    let before = at.addr().next_multiple_of(HUGE_PAGE) - at.addr();
    let after = HUGE_PAGE - before;
    // SAFETY: `before + bytes + after` is the mapping just made, and nothing else has its address yet. The parts are whole pages:
    // a huge page and the mapping's address are multiples of the page size, and so is `before`.
    unsafe {
        let start = at.cast::<u8>().add(before);
        if before > 0 {
            libc::munmap(at, before);
        }
        if after > 0 {
            libc::munmap(start.add(bytes).cast(), after);
        }
        ask_for_huge_pages(start, bytes);
        NonNull::new(start)
    }
}

/// Asks the system to use huge pages. A refusal does not matter.
///
/// # Safety
/// The bytes are those of a mapping.
#[cfg(target_os = "linux")]
unsafe fn ask_for_huge_pages(at: *mut u8, bytes: usize) {
    // SAFETY: the bytes are those of a mapping, as the caller promises; the advice does not change their content.
    unsafe { libc::madvise(at.cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// Does nothing: other systems choose the size of pages themselves.
///
/// # Safety
/// None.
#[cfg(all(unix, not(target_os = "linux")))]
unsafe fn ask_for_huge_pages(_at: *mut u8, _bytes: usize) {}

/// Unmaps what [`map`] returned for `bytes`.
///
/// # Safety
/// A call of [`map`] with this `bytes` returned `at`, and nobody uses the memory any more.
#[cfg(unix)]
pub(crate) unsafe fn unmap(at: NonNull<u8>, bytes: usize) {
    // SAFETY: the range is one that `map` made, and nobody uses it, as the caller promises.
    unsafe { libc::munmap(at.as_ptr().cast(), bytes) };
}

/// Gives the whole pages among the `bytes` bytes from `at` on back to the system. The mapping stays, and all of these bytes read as
/// zeros from then on. Returns `false` if the system refuses.
///
/// # Safety
/// The bytes are inside memory that [`map`] returned, and nobody uses them.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn forget(at: NonNull<u8>, bytes: usize) -> bool {
    /// A multiple of every page size in use.
    const PAGE: usize = 64 << 10;
    let start = at.addr().get();
    let (first, end) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
    // SAFETY: `first..end` is inside the range, which nobody uses; private anonymous pages read as zeros after the advice.
    unsafe {
        if end <= first {
            at.write_bytes(0, bytes);
            return true;
        }
        let (before, after) = (first - start, start + bytes - end);
        at.write_bytes(0, before);
        at.add(bytes - after).write_bytes(0, after);
        libc::madvise(at.add(before).as_ptr().cast(), end - first, libc::MADV_DONTNEED) == 0
    }
}

/// Does nothing and returns `false`: other systems do not promise zeros.
///
/// # Safety
/// None.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn forget(_at: NonNull<u8>, _bytes: usize) -> bool {
    false
}

/// Allocates `bytes` bytes of zeros at an address that is a multiple of [`HUGE_PAGE`], with the standard library's allocator.
/// `bytes` must be positive. Returns `None` if the allocator refuses.
#[cfg(not(unix))]
pub(crate) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, HUGE_PAGE).ok()?;
    // SAFETY: `bytes` is positive, so the size of the layout is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// Frees what [`map`] returned for `bytes`.
///
/// # Safety
/// A call of [`map`] with this `bytes` returned `at`, and nobody uses the memory any more.
#[cfg(not(unix))]
pub(crate) unsafe fn unmap(at: NonNull<u8>, bytes: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, HUGE_PAGE).expect("`map` made this layout");
    // SAFETY: `map` allocated it with this layout, and nobody uses it, as the caller promises.
    unsafe { std::alloc::dealloc(at.as_ptr(), layout) };
}
