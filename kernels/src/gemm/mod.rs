//! Matrix products with frozen weights and adapters, in the three layouts that need no transposed copy.
//!
//! | call | computes | used for |
//! |---|---|---|
//! | [`Forward`] | `y[m, n] (+)= alpha * x[m, k] · w[n, k]ᵀ` | a linear layer; `x·Aᵀ` and `u·Bᵀ` of an adapter |
//! | [`Dx`] | `dx[m, k] (+)= alpha * dy[m, n] · w[n, k]` | its input's gradient |
//! | [`Dw`] | `dw[n, k] (+)= alpha * dy[m, n]ᵀ · x[m, k]` | the gradients of an adapter |
//!
//! All row-major. Weights are read in the format of their file and widened, which is exact. The bits of a row of `y` and `dx`
//! do not depend on `m` or on the other rows, nor on the number of threads.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, KernelError, Precision, Result, Slice, SliceMut, WeightSlice};

/// Whether the product replaces the output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// `y = product`
    Set,
    /// `y += product`
    Add,
}

/// `y[m, n] (+)= alpha * x[m, k] · w[n, k]ᵀ`
pub struct Forward<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    /// `[m, k]`
    pub x: Slice<'a, f32>,
    /// `[n, k]`
    pub w: WeightSlice<'a>,
    /// `[m, n]`
    pub y: SliceMut<'a, f32>,
    pub accumulate: Accumulate,
    pub precision: Precision,
}

/// `dx[m, k] (+)= alpha * dy[m, n] · w[n, k]`
pub struct Dx<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    /// `[m, n]`
    pub dy: Slice<'a, f32>,
    /// `[n, k]`
    pub w: WeightSlice<'a>,
    /// `[m, k]`
    pub dx: SliceMut<'a, f32>,
    pub accumulate: Accumulate,
    pub precision: Precision,
}

/// `dw[n, k] (+)= alpha * dy[m, n]ᵀ · x[m, k]`
pub struct Dw<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    /// `[m, n]`
    pub dy: Slice<'a, f32>,
    /// `[m, k]`
    pub x: Slice<'a, f32>,
    /// `[n, k]`
    pub dw: SliceMut<'a, f32>,
    pub accumulate: Accumulate,
    pub precision: Precision,
}

/// An adapter's update of a layer, for the first `rows` rows of a product.
pub struct LowRank<'a> {
    pub rows: usize,
    pub rank: usize,
    pub scaling: f32,
    /// `[rank, k]`
    pub a: Slice<'a, f32>,
    /// `[n, rank]`
    pub b: Slice<'a, f32>,
    /// `[rows, rank]`, written
    pub between: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply.
    pub fn run(self, device: &Device) -> Result<()> {
        self.run_with(None, device)
    }

    /// As [`Forward::run`], then on the first rows `between = x · aᵀ` and `y += scaling * between · bᵀ`: `x` and `y` pass
    /// through memory once, not twice.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn run_with(self, update: Option<LowRank<'_>>, device: &Device) -> Result<()> {
        check("gemm.forward", "x", self.x.len(), [self.m, self.k])?;
        check("gemm.forward", "w", self.w.len(), [self.n, self.k])?;
        check("gemm.forward", "y", self.y.len(), [self.m, self.n])?;
        check_update("gemm.forward", &update, [self.m, self.n, self.k])?;
        match device {
            Device::Cpu(cpu) => cpu::forward(self, update, cpu),
        }
        Ok(())
    }
}

impl Dx<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        self.run_with(None, device)
    }

    /// As [`Dx::run`], then on the first rows `between = scaling * dy · b` and `dx += between · a`.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn run_with(self, update: Option<LowRank<'_>>, device: &Device) -> Result<()> {
        check("gemm.dx", "dy", self.dy.len(), [self.m, self.n])?;
        check("gemm.dx", "w", self.w.len(), [self.n, self.k])?;
        check("gemm.dx", "dx", self.dx.len(), [self.m, self.k])?;
        check_update("gemm.dx", &update, [self.m, self.n, self.k])?;
        match device {
            Device::Cpu(cpu) => cpu::dx(self, update, cpu),
        }
        Ok(())
    }
}

impl Dw<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        check("gemm.dw", "dy", self.dy.len(), [self.m, self.n])?;
        check("gemm.dw", "x", self.x.len(), [self.m, self.k])?;
        check("gemm.dw", "dw", self.dw.len(), [self.n, self.k])?;
        match device {
            Device::Cpu(cpu) => cpu::dw(self, cpu),
        }
        Ok(())
    }
}

fn check(kernel: &'static str, argument: &'static str, got: usize, [rows, cols]: [usize; 2]) -> Result<()> {
    // a product that does not fit is no slice's length
    let want = rows.saturating_mul(cols);
    if got == want { Ok(()) } else { Err(KernelError::Shape { kernel, argument, got, want }) }
}

fn check_update(kernel: &'static str, update: &Option<LowRank<'_>>, [m, n, k]: [usize; 3]) -> Result<()> {
    let Some(LowRank { rows, rank, a, b, between, .. }) = update else { return Ok(()) };
    check(kernel, "rows of the update", (*rows).min(m), [*rows, 1])?;
    check(kernel, "a", a.len(), [*rank, k])?;
    check(kernel, "b", b.len(), [n, *rank])?;
    check(kernel, "between", between.len(), [*rows, *rank])
}

#[cfg(test)]
mod tests;
