//! A device's memory: allocations at the device's own addresses, which are never used twice.

use memmap2::{MmapOptions, MmapRaw};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// The addresses of device `n`, counted from 1, begin at `n` times this number. No address of the host is so large, and no two
/// devices share an address. So memcheck finds the error if a kernel uses a pointer of the host or of another device.
const OF_A_DEVICE: u64 = 1 << 48;

/// The least number of unused bytes between two allocations.
const APART: u64 = 4096;

/// Alignment of allocations in bytes, as a driver promises it.
const ALIGN: u64 = 256;

/// The memory of a device. One launch or copy at a time reads and writes it.
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

/// Why memory could not be allocated, freed or accessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// There is not enough memory.
    #[error("{bytes} bytes were asked for, {free} are free")]
    Full {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes left.
        free: u64,
    },
    /// No live allocation starts at the address.
    #[error("no allocation starts at {address:#x}")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// The bytes are not inside one allocation.
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
    /// A mark for each byte, 1 if something wrote the byte. `None` if all bytes count as written.
    written: Option<MmapRaw>,
}

impl Allocation {
    /// Maps memory for an allocation. `None` if the system has no addresses for it.
    fn new(start: u64, bytes: u64, kind: Kind) -> Option<Allocation> {
        let map = || {
            let length = usize::try_from(bytes.max(1)).ok()?;
            // only addresses are reserved: pages that nobody writes cost nothing
            MmapOptions::new().len(length).no_reserve_swap().map_anon().ok().map(MmapRaw::from)
        };
        let written = if kind == Kind::Empty { Some(map()?) } else { None };
        let allocation = Allocation { start, bytes, data: map()?, written };
        if kind == Kind::Empty {
            // SAFETY: the mapping has at least `bytes` bytes, and nothing else refers to it yet.
            unsafe { allocation.data.as_mut_ptr().write_bytes(0xff, bytes as usize) };
        }
        Some(allocation)
    }

    /// Returns the host's address of byte `at`.
    pub(crate) fn data(&self, at: u64) -> *mut u8 {
        self.data.as_mut_ptr().wrapping_add(at as usize)
    }

    /// Returns the host's address of the mark of byte `at`. The marks of the next bytes follow it. `None` if all bytes count as
    /// written.
    pub(crate) fn written(&self, at: u64) -> Option<*mut u8> {
        self.written.as_ref().map(|marks| marks.as_mut_ptr().wrapping_add(at as usize))
    }
}

/// What new memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing. The bytes are 0xff, so that floats are NaN, and initcheck reports reads of them.
    Empty,
    /// Zeros that count as written, in place of real content.
    Given,
}

/// The live allocations at one moment, by address.
pub(crate) type Allocations = Vec<Arc<Allocation>>;

impl Memory {
    /// Makes a device with `limit` bytes of memory.
    pub fn new(limit: u64) -> Memory {
        static DEVICES: AtomicU64 = AtomicU64::new(1);
        let next = DEVICES.fetch_add(1, Ordering::Relaxed) * OF_A_DEVICE;
        let table = Table { live: BTreeMap::new(), next, used: 0, limit };
        Memory { table: RwLock::new(table), busy: Mutex::new(()) }
    }

    /// Locks the bytes. While the lock is held, no other launch or copy reads or writes them.
    pub(crate) fn busy(&self) -> MutexGuard<'_, ()> {
        // a launch that panicked can leave wrong bytes, but not a broken table
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `bytes` bytes, which are 0xff and count as not written. Returns their address.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    pub fn allocate(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.add(bytes, Kind::Empty)
    }

    /// Allocates `bytes` bytes that read as zeros and count as written. Returns their address. This is for counting launches at
    /// sizes for which there is no real content. Pages that nobody writes take no memory of the host.
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

    /// Returns the number of free bytes and the total number of bytes.
    pub fn room(&self) -> (u64, u64) {
        let table = self.table.read().expect("no thread panics while it holds the table");
        (table.limit - table.used, table.limit)
    }

    /// Returns the number of live allocations.
    pub fn count(&self) -> usize {
        self.table.read().expect("no thread panics while it holds the table").live.len()
    }

    /// Returns the start and the length of the allocation that holds `address`. `None` if there is none.
    pub fn allocation_of(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|(allocation, _)| (allocation.start, allocation.bytes))
    }

    /// Copies `bytes` from the host to `address`.
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

    /// Copies from `address` to the host. Bytes that nobody wrote are 0xff.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, at) = self.find(address, bytes.len() as u64)?;
        let _busy = self.busy();
        // SAFETY: `find` checked that the bytes are inside the allocation, which the `Arc` keeps alive; `busy` is held, so nobody
        // else writes them.
        unsafe { std::ptr::copy_nonoverlapping(allocation.data(at), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies within the device. A byte that nobody wrote counts as not written at the target too, if the target has marks.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let (source, at) = self.find(from, bytes)?;
        let (target, to) = self.find(to, bytes)?;
        let _busy = self.busy();
        // SAFETY: `find` checked both ranges, the `Arc`s keep the allocations alive, and `busy` is held. The ranges may overlap.
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

    /// Returns how many of the bytes nobody has written.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn unwritten(&self, address: u64, bytes: u64) -> Result<u64, MemoryError> {
        let (allocation, at) = self.find(address, bytes)?;
        let Some(marks) = allocation.written(at) else { return Ok(0) };
        let _busy = self.busy();
        // SAFETY: `find` checked that the bytes are inside the allocation, each byte has a mark, and `busy` is held.
        Ok((0..bytes).map(|i| u64::from(unsafe { marks.wrapping_add(i as usize).read() } == 0)).sum())
    }

    /// Returns the live allocations, by address.
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
