//! Trainable tensors. A [`Param`] and a frozen weight are different types, so code that asks for the gradient of a frozen weight
//! does not compile.

use align_kernels::{Buffer, Device, KernelError};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The index of a parameter in its adapter, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// A trainable f32 matrix `[rows, cols]`. Clones share the values.
#[derive(Debug, Clone)]
pub struct Param {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: ParamId,
    shape: [usize; 2],
    values: RwLock<Buffer<f32>>,
}

impl Param {
    /// Makes a parameter with the given values, row-major.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if there are not `shape[0] * shape[1]` values; [`KernelError::OutOfMemory`].
    pub fn new(device: &Device, id: ParamId, shape: [usize; 2], values: &[f32]) -> Result<Param, KernelError> {
        let want = shape[0] * shape[1];
        if values.len() != want {
            return Err(KernelError::Shape { kernel: "param", argument: "values", got: values.len(), want });
        }
        let values = RwLock::new(device.upload("adapter", values)?);
        Ok(Param { inner: Arc::new(Inner { id, shape, values }) })
    }

    /// Makes a parameter of zeros on `device`, with the id and shape of this one.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeros_like(&self, device: &Device) -> Result<Param, KernelError> {
        let values = RwLock::new(device.zeros("adapter", self.len())?);
        Ok(Param { inner: Arc::new(Inner { id: self.id(), shape: self.shape(), values }) })
    }

    /// Returns the index of the parameter in its adapter.
    pub fn id(&self) -> ParamId {
        self.inner.id
    }

    /// Returns the shape, `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        self.inner.shape
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.inner.shape[0] * self.inner.shape[1]
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the values for a forward or backward pass.
    pub fn read(&self) -> RwLockReadGuard<'_, Buffer<f32>> {
        self.inner.values.read().expect("no holder of a parameter's lock panics")
    }

    /// Locks the values for the optimiser.
    pub fn write(&self) -> RwLockWriteGuard<'_, Buffer<f32>> {
        self.inner.values.write().expect("no holder of a parameter's lock panics")
    }
}
