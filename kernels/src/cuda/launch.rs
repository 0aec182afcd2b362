//! Calls kernels. A kernel gets one struct, whose pointers come from slices.

use super::Cuda;
use super::modules::Module;
use crate::{KernelError, Result};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::PoisonError;

/// A kernel of a PTX file. It takes one struct by value, so there is no order or width of arguments to get wrong.
pub(crate) struct Entry<A> {
    pub module: Module,
    pub name: &'static CStr,
    /// Threads of a block.
    pub threads: u32,
    of: PhantomData<fn(A)>,
}

impl<A> Entry<A> {
    pub(crate) const fn new(module: Module, name: &'static CStr, threads: u32) -> Entry<A> {
        Entry { module, name, threads, of: PhantomData }
    }
}

/// An [`Entry`] without the type of its parameter, which a test compares with the PTX.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnyEntry {
    pub module: Module,
    pub name: &'static CStr,
    pub threads: u32,
    /// Size and alignment of the parameter.
    pub layout: std::alloc::Layout,
}

#[cfg(test)]
impl<A> Entry<A> {
    pub(crate) fn any(&self) -> AnyEntry {
        let Entry { module, name, threads, .. } = *self;
        AnyEntry { module, name, threads, layout: std::alloc::Layout::new::<A>() }
    }
}

/// How many blocks a launch has in each of three dimensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid([usize; 3]);

impl Grid {
    /// One block for each row.
    pub(crate) fn rows(rows: usize) -> Grid {
        Grid([rows, 1, 1])
    }

    /// `across` blocks in the first dimension and `down` in the second.
    pub(crate) fn plane(across: usize, down: usize) -> Grid {
        Grid([across, down, 1])
    }

    /// As many blocks of `threads` threads as it takes for one thread per element.
    pub(crate) fn elements(elements: usize, threads: u32) -> Grid {
        Grid([elements.div_ceil(threads as usize), 1, 1])
    }
}

/// An address of elements on a card that a kernel reads.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Ptr<T>(u64, PhantomData<*const T>);

/// An address of elements on a card that a kernel writes.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PtrMut<T>(u64, PhantomData<*mut T>);

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ptr<T> {}

impl<T> Clone for PtrMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for PtrMut<T> {}

impl<T> Ptr<T> {
    pub(crate) fn new(address: u64) -> Ptr<T> {
        Ptr(address, PhantomData)
    }

    /// The address.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl<T> PtrMut<T> {
    pub(crate) fn new(address: u64) -> PtrMut<T> {
        PtrMut(address, PhantomData)
    }

    /// The address.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl Cuda {
    /// Queues a kernel. Does nothing if the grid has no blocks.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if this or an earlier call of the driver failed; [`KernelError::Size`] if there are more blocks than
    /// a grid may have.
    pub(crate) fn launch<A>(&self, entry: &Entry<A>, grid: Grid, arguments: A) -> Result<()> {
        if grid.0.contains(&0) {
            return Ok(());
        }
        let most = [i32::MAX as usize, 65535, 65535];
        if let Some((got, _)) = grid.0.into_iter().zip(most).find(|(blocks, most)| blocks > most) {
            return Err(KernelError::Size {
                kernel: entry.name.to_str().unwrap_or("a kernel"),
                argument: "blocks",
                got,
                want: "as many as a grid has",
            });
        }
        let sizes = [grid.0.map(|blocks| blocks as u32), [entry.threads, 1, 1]];
        self.call(|| {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry.name);
            let function = self.modules.function(entry.module, entry.name)?;
            // SAFETY: the entry's type is that of the kernel's parameter (a test compares their sizes), and its pointers come from
            // slices of buffers on this card, whose memory only the compute stream uses.
            unsafe { self.compute.launch(function.0, sizes, &arguments) }
        })
    }
}
