//! Calls the driver. The errors contain the driver's own message.

use crate::{KernelError, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

/// The oldest driver that accepts PTX of version 8.0, which the kernels have. Drivers report their version like this: 12000 stands
/// for CUDA 12.0.
const OLDEST_DRIVER: i32 = 12_000;

/// The oldest architecture that the kernels run on: 80 stands for compute capability 8.0.
const OLDEST_CAPABILITY: i32 = 80;

/// A GPU's context. Calls may come from any thread.
#[derive(Debug)]
pub(crate) struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    facts: Facts,
}

// SAFETY: a thread may call the driver's functions if the context is current on it, and each method that needs that calls `bind`
// first.
unsafe impl Send for Context {}
// SAFETY: the driver may be called from several threads at once, if the context is current on each; `bind` makes it current.
unsafe impl Sync for Context {}

/// A card's name and compute capability, and what its driver supports.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub name: String,
    /// 89 for compute capability 8.9.
    pub capability: i32,
    /// The version of CUDA that the driver supports.
    pub driver: (i32, i32),
}

/// Turns a result of the driver into a [`Result`]. The error names the call.
pub(super) fn checked<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| KernelError::Driver { call, reason: words(error.0) })
}

/// Returns the driver's message for a status, followed by the number of the status.
fn words(status: CUresult) -> String {
    let error = DriverError(status);
    let text = error.error_string().map_or_else(|_| "unknown".into(), CStr::to_string_lossy);
    format!("{text} ({})", status as i32)
}

impl Context {
    /// Opens a GPU by its number.
    pub(crate) fn open(ordinal: usize) -> Result<Context> {
        let (device, facts) = Context::look(ordinal)?;
        // SAFETY: `look` found the device; the context is released on drop.
        let raw = checked("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        let context = Context { raw, device, facts };
        context.bind()?;
        Ok(context)
    }

    /// Finds a GPU by its number, without taking any of its memory. Checks first that the driver is there and new enough: a call of
    /// a function that the driver lacks would panic.
    pub(crate) fn look(ordinal: usize) -> Result<(sys::CUdevice, Facts)> {
        let no_device = |reason: String| KernelError::NoDevice { reason };
        // SAFETY: this only tries to load the driver's library.
        if !unsafe { sys::is_culib_present() } {
            return Err(no_device("no NVIDIA driver is installed".to_owned()));
        }
        let mut version = 0;
        // SAFETY: every driver has this function, and `version` can be written.
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

    /// Makes this context the current one of the calling thread.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        checked("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.raw) })
    }

    pub(super) fn free_bytes(&self) -> Result<u64> {
        self.bind()?;
        checked("cuMemGetInfo", result::mem_get_info()).map(|(free, _)| free as u64)
    }

    /// Allocates memory of the card. `None` if the card has not so much.
    ///
    /// # Errors
    /// [`KernelError::Driver`] for another reason than too little memory.
    pub(crate) fn map(&self, bytes: usize) -> Result<Option<NonNull<u8>>> {
        self.bind()?;
        // SAFETY: the context is current.
        match unsafe { result::malloc_sync(bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            other => {
                let address = checked("cuMemAlloc", other)?;
                Ok(NonNull::new(std::ptr::without_provenance_mut(address as usize)))
            }
        }
    }

    /// Waits for all queued work, then frees the memory that [`Context::map`] returned.
    ///
    /// # Safety
    /// `map` returned the address, and nobody uses it after this call.
    pub(crate) unsafe fn unmap(&self, at: NonNull<u8>) {
        // a lost card has nothing to free
        if self.bind().is_ok() && result::ctx::synchronize().is_ok() {
            // SAFETY: `map` returned this address, as the caller promises, and all queued work has run.
            let _ = unsafe { result::free_sync(at.addr().get() as u64) };
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `open` retained the context once, and nothing uses it any more.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Facts {
    fn of(device: sys::CUdevice, version: i32) -> Result<Facts> {
        // SAFETY: the driver returned this device.
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

// SAFETY: a thread may use the stream if its context is current on the thread, and the methods make it current first.
unsafe impl Send for Stream {}
// SAFETY: a thread may use the stream if its context is current on the thread, and the methods make it current first.
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
    /// `to` is the address of as many bytes on this card. `from` is neither changed nor freed before the copy has run.
    pub(super) unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the caller promises that `to` is valid and that `from` stays unchanged until the copy has run.
        checked("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, from, self.raw) })
    }

    /// Copies to the host and waits for the copy.
    pub(super) fn download(&self, to: &mut [u8], from: u64) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: `to` stays borrowed until the next call, `synchronize`, has waited for the copy.
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

    /// Queues a kernel with `grid` blocks of `block` threads and with one parameter.
    ///
    /// # Safety
    /// The function has one parameter, which is of type `A`. The pointers in `parameter` point at memory of the card that the
    /// function may read and write as it does.
    pub(super) unsafe fn launch<A>(
        &self,
        function: sys::CUfunction,
        [grid, block]: [[u32; 3]; 2],
        parameter: &A,
    ) -> Result<()> {
        self.context.bind()?;
        let mut parameters = [std::ptr::from_ref(parameter).cast_mut().cast::<c_void>()];
        let tuple = |[x, y, z]: [u32; 3]| (x, y, z);
        // SAFETY: the parameter fits the function and its pointers are valid, as the caller promises; the driver copies the
        // parameter before it returns.
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
            // SAFETY: the stream is open until now, and the driver still runs what is queued.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}
