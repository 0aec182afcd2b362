//! Calls of the driver, with its words in the errors.

use crate::{KernelError, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

/// The oldest driver whose PTX is ours, as drivers give their version: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12_000;

/// The oldest architecture that the kernels are compiled for.
const OLDEST_CAPABILITY: i32 = 80;

/// A GPU's context. Calls may come from any thread.
#[derive(Debug)]
pub(crate) struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    facts: Facts,
}

// SAFETY: the driver's functions may be called from any thread that the context is current on, which `bind` sees to.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What a card is.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub name: String,
    /// 89 for compute capability 8.9.
    pub capability: i32,
    /// The version of CUDA that the driver supports.
    pub driver: (i32, i32),
}

/// Turns a driver's result into ours.
pub(super) fn checked<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| KernelError::Driver { call, reason: words(error.0) })
}

/// What the driver says of a status, and the status itself.
fn words(status: CUresult) -> String {
    let error = DriverError(status);
    let text = error.error_string().map_or_else(|_| "unknown".into(), CStr::to_string_lossy);
    format!("{text} ({})", status as i32)
}

impl Context {
    /// Opens a GPU by its number.
    pub(crate) fn open(ordinal: usize) -> Result<Context> {
        let (device, facts) = Context::look(ordinal)?;
        // SAFETY: the device exists; the context is released on drop.
        let raw = checked("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        let context = Context { raw, device, facts };
        context.bind()?;
        Ok(context)
    }

    /// Finds a GPU by its number, and takes no memory of it. Before a function of the driver is called, it is made sure that the
    /// driver is there and new enough to have it: otherwise the call would panic.
    pub(crate) fn look(ordinal: usize) -> Result<(sys::CUdevice, Facts)> {
        let no_device = |reason: String| KernelError::NoDevice { reason };
        // SAFETY: looks for a file that the system can load.
        if !unsafe { sys::is_culib_present() } {
            return Err(no_device("no NVIDIA driver is installed".to_owned()));
        }
        let mut version = 0;
        // SAFETY: every driver has this function; the pointer can be written.
        let status = unsafe { sys::cuDriverGetVersion(&mut version) };
        checked("cuDriverGetVersion", status.result())?;
        if version < OLDEST_DRIVER {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(no_device(format!(
                "the driver is of CUDA {major}.{minor}; 12.0 (version 525) or newer is needed"
            )));
        }
        match result::init() {
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
                return Err(no_device("there is no NVIDIA GPU".to_owned()));
            }
            other => checked("cuInit", other)?,
        }
        let count = checked("cuDeviceGetCount", result::device::get_count())?;
        let number = i32::try_from(ordinal).ok().filter(|number| *number < count);
        let Some(number) = number else {
            return Err(no_device(format!("there is no GPU {ordinal}; {count} are there, from 0")));
        };
        let device = checked("cuDeviceGet", result::device::get(number))?;
        let facts = Facts::of(device, version)?;
        if facts.capability < OLDEST_CAPABILITY {
            let (major, minor) = (facts.capability / 10, facts.capability % 10);
            return Err(no_device(format!("{} has compute capability {major}.{minor}; 8.0 is needed", facts.name)));
        }
        Ok((device, facts))
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes the context that of this thread.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        checked("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.raw) })
    }

    pub(super) fn free_bytes(&self) -> Result<u64> {
        self.bind()?;
        checked("cuMemGetInfo", result::mem_get_info()).map(|(free, _)| free as u64)
    }

    /// Allocates memory of the card. `None` if there is not so much.
    pub(crate) fn map(&self, bytes: usize) -> Option<NonNull<u8>> {
        self.bind().ok()?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_sync(bytes) }.ok()?;
        NonNull::new(std::ptr::without_provenance_mut(address as usize))
    }

    /// Frees what [`Context::map`] returned, after everything that was queued.
    ///
    /// # Safety
    /// `map` returned the address, and nobody uses it after this call.
    pub(crate) unsafe fn unmap(&self, at: NonNull<u8>) {
        // a lost card has nothing to free
        if self.bind().is_ok() && result::ctx::synchronize().is_ok() {
            // SAFETY: the memory is mapped, and what was queued has run.
            let _ = unsafe { result::free_sync(at.addr().get() as u64) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, and nothing uses it any more.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Facts {
    fn of(device: sys::CUdevice, version: i32) -> Result<Facts> {
        // SAFETY: the device exists.
        let attribute = |of| checked("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, of) });
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let name = checked("cuDeviceGetName", result::device::get_name(device))?;
        Ok(Facts { name, capability: 10 * major + minor, driver: (version / 1000, version % 1000 / 10) })
    }
}

/// A queue of work on the card.
#[derive(Debug)]
pub(crate) struct Stream {
    raw: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Stream {}
// SAFETY: as for `Context`.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Stream> {
        context.bind()?;
        let raw = checked("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(Stream { raw, context: context.clone() })
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the stream is open.
        checked("cuStreamSynchronize", unsafe { result::stream::synchronize(self.raw) })
    }

    /// Queues a copy from page-locked memory.
    ///
    /// # Safety
    /// `from` stays as it is until the copy has run.
    pub(super) unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the caller's contract.
        checked("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, from, self.raw) })
    }

    /// Copies to the host and waits for it.
    pub(super) fn download(&self, to: &mut [u8], from: u64) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the memory of the process is written before the next call returns.
        checked("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(to, from, self.raw) })?;
        self.synchronize()
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: both ranges are in blocks of the arena.
        checked("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw) })
    }

    pub(super) fn clear(&self, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the range is in a block of the arena.
        checked("cuMemsetD8Async", unsafe { result::memset_d8_async(to, 0, bytes, self.raw) })
    }

    /// Queues a function over `grid` blocks of `block` threads. Its one parameter is `parameter`.
    ///
    /// # Safety
    /// The function has one parameter of the type `A`, whose pointers are to memory of the card that the function may use so.
    pub(super) unsafe fn launch<A>(
        &self,
        function: sys::CUfunction,
        [grid, block]: [[u32; 3]; 2],
        parameter: &A,
    ) -> Result<()> {
        self.context.bind()?;
        let mut parameters = [std::ptr::from_ref(parameter).cast_mut().cast::<c_void>()];
        let tuple = |[x, y, z]: [u32; 3]| (x, y, z);
        // SAFETY: the caller's contract; the driver copies the parameter before it returns.
        checked("cuLaunchKernel", unsafe {
            result::launch_kernel(function, tuple(grid), tuple(block), 0, self.raw, &mut parameters)
        })
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: open until now; what is queued still runs.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}
