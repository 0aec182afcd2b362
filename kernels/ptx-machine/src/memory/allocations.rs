//! A device's memory: allocations at addresses of its own, which are never used twice.

use memmap2::{MmapOptions, MmapRaw};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// The first address of a device is the number of the device, from 1, times this. No address of the host is so large, and none is
/// of two devices, so a pointer of the host or of another device that is handed to a kernel is found.
const OF_A_DEVICE: u64 = 1 << 48;

/// Bytes of no man's land between allocations, at least.
const APART: u64 = 4096;

/// Where allocations start: what a driver promises.
const ALIGN: u64 = 256;

/// The memory of a device, read and written by whoever has an address: one launch or copy at a time.
#[derive(Debug)]
pub struct Memory {
    table: RwLock<Table>,
    /// Held by whoever reads or writes bytes: a launch, or a copy.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    next: u64,
    used: u64,
    limit: u64,
}

/// Memory that was asked for or named wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// More than there is.
    #[error("{bytes} bytes were asked for, {free} are free")]
    Full {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes left.
        free: u64,
    },
    /// No allocation starts here, or it was freed.
    #[error("no allocation starts at {address:#x}")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// Bytes outside every allocation.
    #[error("{bytes} bytes at {address:#x} are not in one allocation")]
    Outside {
        /// The first address.
        address: u64,
        /// Bytes of the access.
        bytes: u64,
    },
}

/// A piece of device memory.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub start: u64,
    pub bytes: u64,
    /// Its content.
    data: MmapRaw,
    /// For each byte, whether something wrote it. `None` for memory that stands for real content.
    written: Option<MmapRaw>,
}

impl Allocation {
    /// `None` if the system has no addresses for it.
    fn new(start: u64, bytes: u64, kind: Kind) -> Option<Allocation> {
        let map = || {
            let length = usize::try_from(bytes.max(1)).ok()?;
            // reserved, not taken: pages that nobody writes cost nothing
            MmapOptions::new().len(length).no_reserve_swap().map_anon().ok().map(MmapRaw::from)
        };
        let written = if kind == Kind::Empty { Some(map()?) } else { None };
        let allocation = Allocation { start, bytes, data: map()?, written };
        if kind == Kind::Empty {
            // SAFETY: the mapping has at least `bytes` bytes, and nobody else has it yet.
            unsafe { allocation.data.as_mut_ptr().write_bytes(0xff, bytes as usize) };
        }
        Some(allocation)
    }

    /// Address on the host of the byte `at`.
    pub(crate) fn data(&self, at: u64) -> *mut u8 {
        self.data.as_mut_ptr().wrapping_add(at as usize)
    }

    /// The marks of the bytes from `at` on; `None` if all count as written.
    pub(crate) fn written(&self, at: u64) -> Option<*mut u8> {
        self.written.as_ref().map(|marks| marks.as_mut_ptr().wrapping_add(at as usize))
    }
}

/// What new memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: bytes of 0xff, which are NaN, and reading them is found.
    Empty,
    /// Zeros that stand for real content.
    Given,
}

/// The live allocations at one moment, by address.
pub(crate) type Allocations = Vec<Arc<Allocation>>;

impl Memory {
    /// A device with `limit` bytes.
    pub fn new(limit: u64) -> Memory {
        static DEVICES: AtomicU64 = AtomicU64::new(1);
        let next = DEVICES.fetch_add(1, Ordering::Relaxed) * OF_A_DEVICE;
        let table = Table { live: BTreeMap::new(), next, used: 0, limit };
        Memory { table: RwLock::new(table), busy: Mutex::new(()) }
    }

    /// Keeps others from reading or writing bytes.
    pub(crate) fn busy(&self) -> MutexGuard<'_, ()> {
        // a launch that panicked leaves bytes, not a broken table
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `bytes`, whose content is nothing: bytes of 0xff.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    pub fn allocate(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.add(bytes, Kind::Empty)
    }

    /// Allocates `bytes` that count as written and read as zeros, for launches that are counted at sizes whose content nobody
    /// has. Pages that nobody writes take no memory of the host.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    pub fn allocate_sparse(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.add(bytes, Kind::Given)
    }

    fn add(&self, bytes: u64, kind: Kind) -> Result<u64, MemoryError> {
        let mut table = self.table.write().expect("no thread panics while it holds the table");
        let free = table.limit - table.used;
        let full = MemoryError::Full { bytes, free };
        if bytes > free {
            return Err(full);
        }
        let start = table.next;
        let Some(allocation) = Allocation::new(start, bytes, kind) else { return Err(full) };
        table.next = (start + bytes + APART).next_multiple_of(ALIGN);
        table.used += bytes;
        table.live.insert(start, Arc::new(allocation));
        Ok(start)
    }

    /// Frees an allocation. Its addresses are not used again.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.table.write().expect("no thread panics while it holds the table");
        let allocation = table.live.remove(&address).ok_or(MemoryError::NotAllocated { address })?;
        table.used -= allocation.bytes;
        Ok(())
    }

    /// Bytes that are free, and bytes in all.
    pub fn room(&self) -> (u64, u64) {
        let table = self.table.read().expect("no thread panics while it holds the table");
        (table.limit - table.used, table.limit)
    }

    /// Allocations that are live.
    pub fn count(&self) -> usize {
        self.table.read().expect("no thread panics while it holds the table").live.len()
    }

    /// Where an allocation starts and its bytes, if `address` is in one.
    pub fn allocation_of(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|(allocation, _)| (allocation.start, allocation.bytes))
    }

    /// Copies `bytes` from the host.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (allocation, at) = self.find(address, bytes.len() as u64)?;
        let _busy = self.busy();
        // SAFETY: `find` checked that the bytes are inside the allocation, which the `Arc` keeps alive; `busy` is held, so nobody
        // else reads or writes them.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), allocation.data(at), bytes.len());
            if let Some(marks) = allocation.written(at) {
                marks.write_bytes(1, bytes.len());
            }
        }
        Ok(())
    }

    /// Copies to the host. Bytes that nobody wrote are 0xff.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, at) = self.find(address, bytes.len() as u64)?;
        let _busy = self.busy();
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(allocation.data(at), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies within the device. Bytes that nobody wrote stay so.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let (source, at) = self.find(from, bytes)?;
        let (target, to) = self.find(to, bytes)?;
        let _busy = self.busy();
        // SAFETY: as in `write`; the two may overlap.
        unsafe {
            std::ptr::copy(source.data(at), target.data(to), bytes as usize);
            match (source.written(at), target.written(to)) {
                (Some(from), Some(to)) => std::ptr::copy(from, to, bytes as usize),
                (None, Some(to)) => to.write_bytes(1, bytes as usize),
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// How many of the bytes nobody has written.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn unwritten(&self, address: u64, bytes: u64) -> Result<u64, MemoryError> {
        let (allocation, at) = self.find(address, bytes)?;
        let Some(marks) = allocation.written(at) else { return Ok(0) };
        let _busy = self.busy();
        // SAFETY: as in `write`; marks are as many as bytes.
        Ok((0..bytes).map(|i| u64::from(unsafe { marks.wrapping_add(i as usize).read() } == 0)).sum())
    }

    /// The live allocations, by address.
    pub(crate) fn live(&self) -> Allocations {
        self.table.read().expect("no thread panics while it holds the table").live.values().cloned().collect()
    }

    fn find(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let table = self.table.read().expect("no thread panics while it holds the table");
        let (_, allocation) =
            table.live.range(..=address).next_back().ok_or(MemoryError::Outside { address, bytes })?;
        let at = address - allocation.start;
        let is_inside = at.checked_add(bytes).is_some_and(|end| end <= allocation.bytes);
        if is_inside { Ok((allocation.clone(), at)) } else { Err(MemoryError::Outside { address, bytes }) }
    }
}
