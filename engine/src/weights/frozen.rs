//! Weights of the base model. They are only read: nothing writes them or computes their gradient.

use align_kernels::device::{Buffer, WeightBuffer, WeightDtype, WeightSlice};
use align_kernels::{Device, KernelError, Slice};
use std::fmt;
use std::sync::Arc;

/// The name of copied matrices in the memory report.
pub const BASE_WEIGHTS: &str = "base weights";
/// The name of vectors in the memory report.
const BASE_VECTORS: &str = "base vectors";

/// A frozen matrix `[out_features, in_features]`, row-major, in the number format of its file. It is cheap to clone, because all
/// clones share the bytes. It hands out no mutable slice and has no gradient.
#[derive(Clone)]
pub struct Frozen(Arc<Matrix>);

struct Matrix {
    name: String,
    shape: [usize; 2],
    weights: WeightBuffer,
}

impl Frozen {
    /// Wraps `weights`, which is `[out_features, in_features]`.
    ///
    /// # Panics
    /// If `weights` has another number of elements than the shape. The loader checks this for weights from files before this
    /// call.
    pub fn new(name: impl Into<String>, [out_features, in_features]: [usize; 2], weights: WeightBuffer) -> Frozen {
        assert_eq!(
            Some(weights.view().len()),
            out_features.checked_mul(in_features),
            "a matrix is as long as its shape"
        );
        Frozen(Arc::new(Matrix { name: name.into(), shape: [out_features, in_features], weights }))
    }

    /// Returns the name in the file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the shape, `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape
    }

    /// Returns the number of rows, which is the width of the output.
    pub fn out_features(&self) -> usize {
        self.0.shape[0]
    }

    /// Returns the number format that the file has.
    pub fn dtype(&self) -> WeightDtype {
        match self.0.weights {
            WeightBuffer::F32(_) => WeightDtype::F32,
            WeightBuffer::F16(_) => WeightDtype::F16,
            WeightBuffer::Bf16(_) => WeightDtype::Bf16,
        }
    }

    /// Returns the number of bytes of the weights.
    pub fn bytes(&self) -> usize {
        self.0.weights.bytes()
    }

    /// Returns a view of the whole matrix.
    pub fn view(&self) -> WeightSlice<'_> {
        self.0.weights.view()
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [out_features, in_features] = self.shape();
        write!(f, "Frozen({} [{out_features}, {in_features}] {:?})", self.name(), self.dtype())
    }
}

/// A frozen vector: the weight of a norm, or a bias. It is held as f32, since it is tiny and the kernels that use it compute in
/// f32.
#[derive(Clone)]
pub struct FrozenVector(Arc<Vector>);

struct Vector {
    name: String,
    values: Buffer<f32>,
}

impl FrozenVector {
    /// Copies `values` to `device`.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn new(device: &Device, name: impl Into<String>, values: &[f32]) -> Result<FrozenVector, KernelError> {
        let values = device.upload(BASE_VECTORS, values)?;
        Ok(FrozenVector(Arc::new(Vector { name: name.into(), values })))
    }

    /// Makes a vector of `len` zeros on `device`.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeros(device: &Device, name: impl Into<String>, len: usize) -> Result<FrozenVector, KernelError> {
        let values = device.zeros(BASE_VECTORS, len)?;
        Ok(FrozenVector(Arc::new(Vector { name: name.into(), values })))
    }

    /// Returns the name in the file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.0.values.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.0.values.is_empty()
    }

    /// Returns a view of all elements.
    pub fn view(&self) -> Slice<'_, f32> {
        self.0.values.view()
    }
}

impl fmt::Debug for FrozenVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrozenVector({} [{}])", self.name(), self.len())
    }
}
