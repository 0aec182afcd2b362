//! A GPU: its context, its stream, its memory, its kernels. Nothing outside this folder calls the driver.
//!
//! Work is queued on one stream, the compute stream, which alone touches the arena. So a block can be handed out again as soon as
//! its buffer is dropped. The host waits in `download` and `synchronize`, in an upload for which there is no room in the staging
//! memory, and before memory is given back to the driver.

mod convert;
mod driver;
mod launch;
mod modules;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use driver::Context;
#[cfg(test)]
pub(crate) use launch::AnyEntry;
pub(crate) use launch::{Entry, Grid, Ptr, PtrMut};
pub(crate) use modules::Module;

use crate::arena::{Block, Memory, Source};
use crate::cpu::{Cpu, Isa};
use crate::device::memory_report::MemoryReport;
use crate::formats::Element;
use crate::{KernelError, Result};
use driver::Stream;
use modules::Modules;
use staging::Staging;
use std::ffi::CStr;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A GPU, and the processor for the host's part of the work.
pub struct Cuda {
    context: Arc<Context>,
    compute: Stream,
    memory: Arc<Memory>,
    staging: Mutex<Staging>,
    modules: Modules,
    host: Arc<Cpu>,
    /// The kernel that was called last.
    last: Mutex<Option<&'static CStr>>,
    /// The error of the first call that failed. The context may be lost by then, so every later call returns this error.
    fault: OnceLock<KernelError>,
}

/// Bytes of page-locked memory for uploads.
const STAGING: usize = 8 << 20;

impl Cuda {
    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// [`KernelError::NoDevice`] if there is no driver or no such GPU, or if the driver or the GPU is too old;
    /// [`KernelError::Driver`] if a call of the driver fails; the errors of [`Isa::chosen`] and [`Cpu::new`].
    pub(crate) fn open(ordinal: usize, threads: Option<usize>) -> Result<Cuda> {
        Cuda::with_memory(ordinal, threads, Source::Card)
    }

    /// Opens the GPU with this number. Each block of memory is a separate allocation.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub(crate) fn apart(ordinal: usize, threads: Option<usize>) -> Result<Cuda> {
        Cuda::with_memory(ordinal, threads, Source::Apart)
    }

    /// Opens the GPU with this number. Its memory comes from `source`.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    fn with_memory(ordinal: usize, threads: Option<usize>, source: fn(Arc<Context>) -> Source) -> Result<Cuda> {
        let context = Arc::new(Context::open(ordinal)?);
        let memory = Arc::new(Memory::of("cuda", source(context.clone())));
        Ok(Cuda {
            compute: Stream::new(&context)?,
            memory,
            staging: Mutex::new(Staging::new(&context, STAGING)?),
            modules: Modules::new(&context),
            host: Arc::new(Cpu::new(threads, Isa::chosen()?)?),
            context,
            last: Mutex::new(None),
            fault: OnceLock::new(),
        })
    }

    pub(crate) fn take(&self, name: &'static str, bytes: usize) -> Result<Block> {
        self.call(|| self.memory.take(name, bytes))
    }

    /// See [`crate::Device::reserve`].
    pub(crate) fn reserve(&self, name: &'static str, bytes: usize) -> Result<()> {
        self.call(|| self.memory.reserve(name, bytes))
    }

    pub(crate) fn memory(&self) -> MemoryReport {
        self.memory.report()
    }

    pub(crate) fn host(&self) -> &Arc<Cpu> {
        &self.host
    }

    /// Returns the name of the first card. `None` if no card can be opened.
    pub(crate) fn first() -> Option<String> {
        Context::look(0).ok().map(|(_, facts)| facts.name)
    }

    /// Returns the card's name and architecture and what its driver supports, e.g. `NVIDIA GeForce RTX 4090 (sm_89), driver of CUDA
    /// 12.4`.
    pub(crate) fn describe(&self) -> String {
        let facts = self.context.facts();
        let (major, minor) = facts.driver;
        format!("{} (sm_{}), driver of CUDA {major}.{minor}", facts.name, facts.capability)
    }

    /// Names what the bits of a result depend on: the architecture, and a hash of the kernels.
    pub(crate) fn arithmetic(&self) -> String {
        let facts = self.context.facts();
        let (major, minor) = facts.driver;
        format!("cuda sm_{} {}, driver of CUDA {major}.{minor}", facts.capability, modules::hash())
    }

    /// Bytes of the card's memory that are free.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        self.call(|| self.context.free_bytes())
    }

    /// Waits until all queued work has run.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if any of that work failed.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.call(|| self.compute.synchronize())
    }

    /// Calls the driver, or returns the error of an earlier call if one failed. The driver may report the fault of a kernel in any
    /// later call, so a fault names the kernel that was called last.
    fn call<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        work().map_err(|error| match error {
            KernelError::Driver { call, reason } => {
                let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
                let reason = match last {
                    Some(kernel) => format!("{reason}; the kernel called last was {}", kernel.to_string_lossy()),
                    None => reason,
                };
                self.fault.get_or_init(|| KernelError::Driver { call, reason }).clone()
            }
            other => other,
        })
    }

    /// Copies host data to the card. The data may be dropped as soon as this returns.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if this or an earlier call failed.
    pub(crate) fn upload<T: Element>(&self, to: PtrMut<T>, data: &[T]) -> Result<()> {
        self.call(|| self.staging().upload(&self.compute, to.bits(), bytemuck::cast_slice(data)))
    }

    /// Copies elements to the host, after all queued work has run.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if this or an earlier call failed.
    pub(crate) fn download<T: Element>(&self, from: Ptr<T>, len: usize) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); len];
        self.call(|| self.compute.download(bytemuck::cast_slice_mut(&mut data), from.bits()))?;
        Ok(data)
    }

    /// Queues a copy within the card's memory.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if this or an earlier call failed.
    pub(crate) fn copy<T: Element>(&self, to: PtrMut<T>, from: Ptr<T>, len: usize) -> Result<()> {
        self.call(|| self.compute.copy(to.bits(), from.bits(), len * size_of::<T>()))
    }

    /// Queues setting `len` elements to zero.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if this or an earlier call failed.
    pub(crate) fn clear<T: Element>(&self, to: PtrMut<T>, len: usize) -> Result<()> {
        self.call(|| self.compute.clear(to.bits(), len * size_of::<T>()))
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // what is queued uses the staging memory and the modules, which are freed next; a fault was reported or concerns nobody now
        let _ = self.compute.synchronize();
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({})", self.describe())
    }
}
