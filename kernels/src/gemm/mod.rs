//! Matrix products with frozen weights and adapters, in the three layouts that need no transposed copy.
//!
//! | call | computes | used for |
//! |---|---|---|
//! | [`Forward`] | `y[m, n] (+)= alpha * x[m, k] · w[n, k]ᵀ` | a linear layer; `x·Aᵀ` and `u·Bᵀ` of an adapter |
//! | [`Dx`] | `dx[m, k] (+)= alpha * dy[m, n] · w[n, k]` | the gradient of a layer's input |
//! | [`Dw`] | `dw[n, k] (+)= alpha * dy[m, n]ᵀ · x[m, k]` | the gradients of an adapter |
//! | [`StackForward`], [`StackDx`] | the first two for several layers that read one input, and their adapters | all layers |
//!
//! All matrices are row-major. Weights are read in the format of their file and widened, which is exact. The bits of a row of `y`
//! and `dx` do not depend on `m`, on the other rows or on the number of threads.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;
mod stack;

pub(crate) use cpu::cost::{dx as dx_cost, forward as forward_cost};
pub use stack::{LowRank, Piece, StackDx, StackForward};

use crate::device::Cost;
use crate::error::check_shape;
use crate::{Columns, Device, FloatSlice, FloatSliceMut, Precision, Result, SliceMut, WeightSlice};

/// Whether the product replaces the output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// `y = product`
    Set,
    /// `y += product`
    Add,
}

/// `y (+)= alpha * x · wᵀ`
pub struct Forward<'a> {
    /// Rows of `x` and `y`.
    pub m: usize,
    /// Rows of `w`, columns of `y`.
    pub n: usize,
    /// Columns of `x` and `w`: the sum runs over them.
    pub k: usize,
    /// Multiplies the product.
    pub alpha: f32,
    /// `[m, k]`
    pub x: FloatSlice<'a>,
    /// `[n, k]`
    pub w: WeightSlice<'a>,
    /// `[m, n]`
    pub y: FloatSliceMut<'a>,
    /// Whether the product is added to `y` or replaces it.
    pub accumulate: Accumulate,
    /// The format in which `x` and `w` are multiplied.
    pub precision: Precision,
}

/// `dx (+)= alpha * dy · w`
pub struct Dx<'a> {
    /// Rows of `dy` and `dx`.
    pub m: usize,
    /// Columns of `dy`, rows of `w`: the sum runs over them.
    pub n: usize,
    /// Columns of `w` and `dx`.
    pub k: usize,
    /// As in [`Forward`].
    pub alpha: f32,
    /// `[m, n]`
    pub dy: Columns<'a>,
    /// `[n, k]`
    pub w: WeightSlice<'a>,
    /// `[m, k]`
    pub dx: FloatSliceMut<'a>,
    /// Whether the product is added to `dx` or replaces it.
    pub accumulate: Accumulate,
    /// The format in which `dy` and `w` are multiplied.
    pub precision: Precision,
}

/// `dw (+)= alpha * dyᵀ · x`
pub struct Dw<'a> {
    /// Rows of `dy` and `x`: the sum runs over them.
    pub m: usize,
    /// Columns of `dy`, rows of `dw`.
    pub n: usize,
    /// Columns of `x` and `dw`.
    pub k: usize,
    /// As in [`Forward`].
    pub alpha: f32,
    /// `[m, n]`
    pub dy: Columns<'a>,
    /// `[m, k]`
    pub x: FloatSlice<'a>,
    /// `[n, k]`
    pub dw: SliceMut<'a, f32>,
    /// Whether the product is added to `dw` or replaces it.
    pub accumulate: Accumulate,
    /// The format in which `dy` and `x` are multiplied.
    pub precision: Precision,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::OutOfMemory`] if scratch
    /// cannot be allocated.
    pub fn run(self, device: &Device) -> Result<()> {
        check_shape("gemm.forward", "x", self.x.len(), [self.m, self.k])?;
        check_shape("gemm.forward", "w", self.w.len(), [self.n, self.k])?;
        check_shape("gemm.forward", "y", self.y.len(), [self.m, self.n])?;
        let _timed = device.timed("gemm.forward");
        match device {
            Device::Cpu(cpu) => cpu::forward(self, device, cpu),
            Device::Cuda(cuda) => cuda::forward(self, cuda),
            Device::Count(count) => {
                let on_card = Cost::of_operations(operations(self.m, self.n, self.k));
                count.call("gemm.forward", count.cpu().map_or(on_card, |cpu| cpu::cost::forward(cpu, self)))
            }
        }
    }
}

impl Dx<'_> {
    /// # Errors
    /// As [`Forward::run`]; [`crate::KernelError::Size`] if the columns of `dy` end beyond its rows.
    pub fn run(self, device: &Device) -> Result<()> {
        self.dy.check("gemm.dx", "dy", self.m, self.n)?;
        check_shape("gemm.dx", "w", self.w.len(), [self.n, self.k])?;
        check_shape("gemm.dx", "dx", self.dx.len(), [self.m, self.k])?;
        let _timed = device.timed("gemm.dx");
        match device {
            Device::Cpu(cpu) => cpu::dx(self, device, cpu),
            Device::Cuda(cuda) => cuda::dx(self, cuda),
            Device::Count(count) => {
                let on_card = Cost::of_operations(operations(self.m, self.n, self.k));
                count.call("gemm.dx", count.cpu().map_or(on_card, |cpu| cpu::cost::dx(cpu, self)))
            }
        }
    }
}

impl Dw<'_> {
    /// # Errors
    /// As [`Dx::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        self.dy.check("gemm.dw", "dy", self.m, self.n)?;
        check_shape("gemm.dw", "x", self.x.len(), [self.m, self.k])?;
        check_shape("gemm.dw", "dw", self.dw.len(), [self.n, self.k])?;
        let _timed = device.timed("gemm.dw");
        match device {
            Device::Cpu(cpu) => cpu::dw(self, device, cpu),
            Device::Cuda(cuda) => cuda::dw(self, cuda),
            Device::Count(count) => {
                let on_card = Cost::of_operations(operations(self.m, self.n, self.k));
                count.call("gemm.dw", count.cpu().map_or(on_card, |cpu| cpu::cost::dw(cpu, self)))
            }
        }
    }
}

/// Returns the number of floating-point operations of a product.
fn operations(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

#[cfg(test)]
mod tests;
