//! Where buffers live and kernels run. All device memory of the project is reached through this module.
//!
//! [`Buffer`] owns memory of a [`Device`], [`Slice`] and [`SliceMut`] borrow it. Outside this crate their contents can be read and
//! written only by kernels, downloads, [`SliceMut::fill`], and the uploads and copies of [`Device`]. So the code of a backend is in
//! this crate alone.

mod buffer;
mod count;
mod float;
mod indices;
pub(crate) mod memory_report;
mod slice;
mod widened;

pub use crate::cpu::KernelTime;
pub use crate::formats::{Element, FloatDtype, WeightDtype};
pub use buffer::{Buffer, WeightBuffer, WeightSlice};
pub(crate) use count::Cost;
use count::Counted;
pub use count::{Count, Packed};
pub use float::{Columns, FloatBuffer, FloatSlice, FloatSliceMut};
pub use indices::{IGNORE, IndexSlice, Indices};
pub use memory_report::{MemoryReport, MemoryUse};
pub use slice::{Slice, SliceMut};
pub(crate) use widened::Widened;

use crate::Result;
use crate::cpu::threads::blocks::BLOCK;
use crate::cpu::{Cpu, Isa, Timed};
use crate::cuda::Cuda;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A place where buffers live and kernels run. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// This machine's processor, through one pool of threads.
    Cpu(Arc<Cpu>),
    /// An NVIDIA GPU.
    Cuda(Arc<Cuda>),
    /// Not a real device: it counts what calls would take on another one.
    Count(Arc<Count>),
}

/// How much of a device's memory a plan may take, and how much of that it leaves free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    /// Share of the free bytes that a program may fill if it is given no limit.
    pub share: f64,
    /// One part in `uncounted` of the limit stays free for what no plan counts: gaps between blocks, tokenizer, data.
    pub uncounted: u64,
}

impl Headroom {
    /// The headroom of the host. What `share` leaves is for the pages of the mapped weights and for everything else on the machine.
    /// With a model of 7 billion parameters, the process had 6 % more anonymous memory than its blocks held.
    pub const HOST: Headroom = Headroom { share: 0.4, uncounted: 12 };

    /// The headroom of a card, which this program is expected to have for itself. What `share` leaves is for the kernels' code and
    /// for the screen.
    pub const CARD: Headroom = Headroom { share: 0.95, uncounted: 50 };

    /// Bytes that a plan may fill under a limit of `limit` bytes.
    pub fn room(self, limit: u64) -> u64 {
        limit - limit / self.uncounted
    }

    /// Returns a limit under which a plan of `needed` bytes fits.
    pub fn limit(self, needed: u64) -> u64 {
        needed + needed.div_ceil(self.uncounted - 1)
    }
}

impl Device {
    /// Makes a device of the processor with `threads` threads (default: as many as this process may use). It uses the instruction
    /// set that the environment variable `ALIGN_CPU` names, or else the best one of the processor.
    ///
    /// # Errors
    /// [`crate::KernelError::Threads`] if the pool cannot start, [`crate::KernelError::InstructionSet`] if `ALIGN_CPU` names a set
    /// that this machine does not have.
    pub fn cpu(threads: Option<usize>) -> Result<Device> {
        Device::cpu_with(threads, Isa::chosen()?)
    }

    /// Makes a device of the processor with a given instruction set. Tests use it to run every path that the machine has.
    ///
    /// # Errors
    /// [`crate::KernelError::Threads`] if the pool cannot start.
    pub fn cpu_with(threads: Option<usize>, isa: Isa) -> Result<Device> {
        Ok(Device::Cpu(Arc::new(Cpu::new(threads, isa)?)))
    }

    /// Makes a device of the GPU with this number, and of `threads` threads of the host (default: as in [`Device::cpu`]).
    ///
    /// # Errors
    /// [`crate::KernelError::NoDevice`] if the GPU cannot be used, [`crate::KernelError::Driver`] if a call of the driver fails,
    /// and the errors of [`Device::cpu`].
    pub fn cuda(ordinal: usize, threads: Option<usize>) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(Cuda::open(ordinal, threads)?)))
    }

    /// Like [`Device::cuda`], but each block of memory is a separate allocation of the driver. Tests use it: a checker of addresses
    /// then knows where a block ends, and the driver can refuse any block.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn cuda_apart(ordinal: usize, threads: Option<usize>) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(Cuda::apart(ordinal, threads)?)))
    }

    /// Returns the name of the first GPU that [`Device::cuda`] could open. `None` if there is none, or if it is the PTX machine of
    /// the tests.
    pub fn card() -> Option<String> {
        Cuda::first().filter(|name| name != TEST_CARD)
    }

    /// Makes a counter of what calls would take on this device. Wrap it in [`Device::Count`] and run the calls on that.
    pub fn count(&self) -> Arc<Count> {
        match self {
            Device::Cpu(cpu) => Arc::new(Count::new(Counted::Cpu(cpu.clone()))),
            Device::Cuda(cuda) => Arc::new(Count::new(Counted::Cuda(cuda.clone()))),
            Device::Count(count) => Arc::new(count.again()),
        }
    }

    /// Allocates `len` elements of unspecified but initialised content: every element must be written before it is read.
    /// `name` shows in the memory report and in the error.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn alloc<T: Element>(&self, name: &'static str, len: usize) -> Result<Buffer<T>> {
        match self {
            Device::Cpu(cpu) => Ok(Buffer::from_block(self.clone(), name, cpu.take(name, bytes_of::<T>(len))?, len)),
            Device::Cuda(cuda) => Ok(Buffer::from_block(self.clone(), name, cuda.take(name, bytes_of::<T>(len))?, len)),
            Device::Count(count) => Ok(Buffer::counted(self.clone(), name, count.take(name, bytes_of::<T>(len)), len)),
        }
    }

    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn zeros<T: Element>(&self, name: &'static str, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(name, len)?;
        match self {
            // fresh pages are zeros, and take no memory before they are touched
            Device::Cpu(_) if buffer.is_zeroed() => {}
            Device::Cpu(cpu) => {
                cpu.for_each_block(buffer.view_mut().cpu().chunks_mut(BLOCK), |block| block.fill(T::zeroed()));
            }
            Device::Cuda(cuda) => cuda.clear(buffer.view_mut().cuda(), len)?,
            Device::Count(_) => {}
        }
        Ok(buffer)
    }

    /// Copies host data to a new buffer on the device.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`].
    pub fn upload<T: Element>(&self, name: &'static str, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(name, data.len())?;
        match self {
            Device::Cpu(_) => buffer.view_mut().cpu().copy_from_slice(data),
            Device::Cuda(cuda) => cuda.upload(buffer.view_mut().cuda(), data)?,
            Device::Count(_) => {}
        }
        Ok(buffer)
    }

    /// Copies `from` to `to`, which must have the same length. On the processor, all threads take part.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy<T: Element>(&self, from: Slice<'_, T>, to: SliceMut<'_, T>) -> Result<()> {
        assert_eq!(from.len(), to.len(), "a copy is as long as what it copies");
        match self {
            Device::Cpu(cpu) => {
                let blocks = from.cpu().chunks(BLOCK).zip(to.cpu().chunks_mut(BLOCK));
                cpu.for_each_block(blocks, |(from, to)| to.copy_from_slice(from));
            }
            Device::Cuda(cuda) => {
                let len = from.len();
                cuda.copy(to.cuda(), from.cuda(), len)?;
            }
            Device::Count(_) => {}
        }
        Ok(())
    }

    /// Waits until the device has done everything that was asked of it. Call it before a clock is read. On the processor a
    /// kernel call is done when it returns.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Cuda(cuda) => cuda.synchronize(),
            Device::Cpu(_) | Device::Count(_) => Ok(()),
        }
    }

    /// Bytes of the device's memory that this program could hold: the free bytes and, on a card, also those that the arena has
    /// mapped already, because they hold the base weights.
    ///
    /// # Errors
    /// [`crate::KernelError::Driver`] if the GPU has failed.
    pub fn free_bytes(&self) -> Result<u64> {
        match self {
            Device::Cuda(cuda) => Ok(cuda.free_bytes()? + cuda.memory().mapped as u64),
            Device::Cpu(_) | Device::Count(_) => Ok(crate::cpu::free_bytes()),
        }
    }

    /// Whether kernels read mapped weights where they are, in the memory of the host.
    pub fn reads_host_memory(&self) -> bool {
        match self {
            Device::Cpu(_) => true,
            Device::Cuda(_) => false,
            Device::Count(count) => count.cpu().is_some(),
        }
    }

    /// How much of the memory a plan may use.
    pub fn headroom(&self) -> Headroom {
        match self {
            Device::Cuda(_) => Headroom::CARD,
            Device::Cpu(_) | Device::Count(_) => Headroom::HOST,
        }
    }

    /// Makes sure that all blocks together can have `bytes` bytes, for `name`. On a card, what is missing is mapped now, in one
    /// piece, so that another program cannot take it later.
    ///
    /// # Errors
    /// [`crate::KernelError::OutOfMemory`] if the card has not so much; [`crate::KernelError::Driver`].
    pub fn reserve(&self, name: &'static str, bytes: u64) -> Result<()> {
        match self {
            Device::Cuda(cuda) => cuda.reserve(name, usize::try_from(bytes).unwrap_or(usize::MAX)),
            Device::Cpu(_) | Device::Count(_) => Ok(()),
        }
    }

    /// Runs `work` on the device's pool of threads, so that the kernel calls inside it need not be handed over to the pool.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(cpu) => cpu.install(work),
            Device::Cuda(cuda) => cuda.host().install(work),
            Device::Count(_) => work(),
        }
    }

    /// Number of threads that kernels run on. For a GPU, number of threads that do the host's part of the work.
    pub fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.threads(),
            Device::Cuda(cuda) => cuda.host().threads(),
            Device::Count(count) => count.of().threads(),
        }
    }

    /// Returns the bytes in use now, their high-water mark, and the share of each name.
    pub fn memory(&self) -> MemoryReport {
        match self {
            Device::Cpu(cpu) => cpu.memory(),
            Device::Cuda(cuda) => cuda.memory(),
            Device::Count(count) => count.report(),
        }
    }

    /// Calls of each kernel so far and how long they took. A kernel that runs within another counts as part of it. Empty if the
    /// device is not the processor.
    pub fn kernel_times(&self) -> BTreeMap<&'static str, KernelTime> {
        match self {
            Device::Cpu(cpu) => cpu.kernel_times(),
            // a launch returns before its kernel has run, so the host has no time to count
            Device::Cuda(_) | Device::Count(_) => BTreeMap::new(),
        }
    }

    /// Runs a call of a kernel that takes no scratch and whose operations no plan counts. On the processor, counts its time.
    pub(crate) fn run<C>(
        &self,
        kernel: &'static str,
        call: C,
        on_cpu: impl FnOnce(&Cpu, C),
        on_cuda: impl FnOnce(&Cuda, C) -> Result<()>,
    ) -> Result<()> {
        let _timed = self.timed(kernel);
        match self {
            Device::Cpu(cpu) => on_cpu(cpu, call),
            Device::Cuda(cuda) => return on_cuda(cuda, call),
            Device::Count(_) => {}
        }
        Ok(())
    }

    /// Counts the time until the result is dropped as time of `kernel`.
    pub(crate) fn timed(&self, kernel: &'static str) -> Option<Timed<'_>> {
        match self {
            Device::Cpu(cpu) => Some(cpu.timed(kernel)),
            Device::Cuda(_) | Device::Count(_) => None,
        }
    }

    /// Whether the instruction set has a unit for products of bf16. If [`Device::cpu`] chose the set without `ALIGN_CPU`, such
    /// products are faster than products of f32. `ALIGN_CPU` can name a set on which they are slower.
    pub fn has_bf16_unit(&self) -> bool {
        match self {
            Device::Cpu(cpu) => cpu.isa().has_bf16_unit(),
            Device::Cuda(_) => false,
            Device::Count(count) => count.of().has_bf16_unit(),
        }
    }

    /// Names the arithmetic of the device, e.g. `cpu avx512`. Devices of the same name give the same bits for the same operands,
    /// whatever the number of threads.
    pub fn arithmetic(&self) -> String {
        match self {
            Device::Cpu(cpu) => format!("cpu {}", cpu.isa().name()),
            Device::Cuda(cuda) => cuda.arithmetic(),
            Device::Count(count) => format!("none, counted as {}", count.of().arithmetic()),
        }
    }

    /// One line for the start-up summary, e.g. `cpu, 2 threads, avx512`.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu(cpu) => {
                let threads = self.threads();
                format!("cpu, {threads} thread{}, {}", if threads == 1 { "" } else { "s" }, cpu.isa().name())
            }
            Device::Cuda(cuda) => cuda.describe(),
            Device::Count(_) => self.arithmetic(),
        }
    }
}

/// Returns the bytes of `len` elements, at most `usize::MAX`: that is refused like any other size that the machine does not have.
fn bytes_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
}

/// The name of the card that runs PTX on the processor, for tests.
const TEST_CARD: &str = "PTX machine";

#[cfg(test)]
mod tests;
