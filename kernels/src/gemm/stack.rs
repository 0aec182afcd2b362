//! Layers that read the same input, side by side, with the updates of adapters. One call for all of them makes it possible to read
//! the input once, and to write the outputs once for a layer and its update.

use super::cpu;
use crate::device::Cost;
use crate::error::{check_dtype, check_shape, check_size};
use crate::{Device, FloatDtype, FloatSlice, FloatSliceMut, Precision, Result, Slice, SliceMut, WeightSlice};
use std::ops::Range;

/// One layer of a stack.
pub struct Piece<'a> {
    /// Number of outputs of the layer.
    pub n: usize,
    /// `[n, k]`
    pub w: WeightSlice<'a>,
    /// `[n]`, added in the forward direction
    pub bias: Option<Slice<'a, f32>>,
    /// Updates of different rows, in the order of the rows: e.g. the policy's adapter, then the reference's.
    pub updates: Vec<LowRank<'a>>,
}

/// An adapter's update of a layer, for some rows.
pub struct LowRank<'a> {
    /// The rows that it applies to.
    pub rows: Range<usize>,
    /// Rows of `a`, columns of `b`.
    pub rank: usize,
    /// Multiplies the update.
    pub scaling: f32,
    /// `[rank, k]`
    pub a: Slice<'a, f32>,
    /// `[n, rank]`
    pub b: Slice<'a, f32>,
    /// `[rows, k]`: what the update reads instead of the stack's input in the forward direction, e.g. that input after dropout
    pub x: Option<FloatSlice<'a>>,
    /// `[rows, rank]`, overwritten with `x · aᵀ`, or in [`StackDx`] with the gradient of `x · aᵀ`
    pub u: SliceMut<'a, f32>,
}

/// For each piece, in its columns: `y = x · wᵀ + bias + residual`. The rows of an update also get `scaling * u · bᵀ` with
/// `u = x · aᵀ`.
pub struct StackForward<'a, 'p> {
    /// Rows of `x` and `y`.
    pub m: usize,
    /// Columns of `x` and of every weight.
    pub k: usize,
    /// `[m, k]`
    pub x: FloatSlice<'a>,
    /// The layers. Their outputs are side by side in `y`, in this order.
    pub pieces: &'p mut [Piece<'a>],
    /// `[m, Σ n]`, in f32 if there is a residual
    pub y: FloatSliceMut<'a>,
    /// `[m, Σ n]`
    pub residual: Option<Slice<'a, f32>>,
    /// The precision of all products, the updates' too.
    pub precision: Precision,
}

/// `dx = Σ dy · w` over the pieces, each with its columns of `dy`. The rows of an update also get `du · a` with
/// `du = scaling * dy · b`, which is written to the update's `u`.
pub struct StackDx<'a, 'p> {
    /// Rows of `dy` and `dx`.
    pub m: usize,
    /// Columns of `dx` and of every weight.
    pub k: usize,
    /// `[m, Σ n]`
    pub dy: FloatSlice<'a>,
    /// The layers. Their columns are side by side in `dy`, in this order.
    pub pieces: &'p mut [Piece<'a>],
    /// `[m, k]`
    pub dx: FloatSliceMut<'a>,
    /// The precision of all products, the updates' too.
    pub precision: Precision,
}

impl StackForward<'_, '_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply; [`crate::KernelError::Size`] for updates
    /// whose rows overlap, are not in order or are not in the stack; [`crate::KernelError::Format`] if there is a residual and
    /// `y` is not f32; [`crate::KernelError::OutOfMemory`] if scratch cannot be allocated.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gemm.stack_forward";
        let n = check_pieces(KERNEL, self.pieces, [self.m, self.k])?;
        check_shape(KERNEL, "x", self.x.len(), [self.m, self.k])?;
        check_shape(KERNEL, "y", self.y.len(), [self.m, n])?;
        if let Some(residual) = self.residual {
            check_shape(KERNEL, "residual", residual.len(), [self.m, n])?;
            check_dtype(KERNEL, "y", self.y.dtype(), FloatDtype::F32)?;
        }
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::stack_forward(self, device, cpu),
            Device::Cuda(cuda) => super::cuda::stack_forward(self, cuda),
            Device::Count(count) => match count.cpu() {
                Some(cpu) => {
                    cpu::stack::forward_runs(self, |run| count.call(KERNEL, cpu::cost::stack_forward(cpu, run)))
                }
                None => count.call(KERNEL, Cost::of_operations(operations(self.m, self.k, self.pieces))),
            },
        }
    }
}

impl StackDx<'_, '_> {
    /// # Errors
    /// As [`StackForward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gemm.stack_dx";
        let n = check_pieces(KERNEL, self.pieces, [self.m, self.k])?;
        check_shape(KERNEL, "dy", self.dy.len(), [self.m, n])?;
        check_shape(KERNEL, "dx", self.dx.len(), [self.m, self.k])?;
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::stack_dx(self, device, cpu),
            Device::Cuda(cuda) => super::cuda::stack_dx(self, cuda),
            Device::Count(count) => match count.cpu() {
                Some(cpu) => cpu::stack::dx_runs(self, |run| count.call(KERNEL, cpu::cost::stack_dx(cpu, run))),
                None => count.call(KERNEL, Cost::of_operations(operations(self.m, self.k, self.pieces))),
            },
        }
    }
}

/// Returns the number of floating-point operations of a stack. It is the same in both directions.
pub(super) fn operations(m: usize, k: usize, pieces: &[Piece<'_>]) -> f64 {
    let of_piece = |piece: &Piece<'_>| {
        let of_update = |update: &LowRank<'_>| super::operations(update.rows.len(), update.rank, k + piece.n);
        super::operations(m, piece.n, k) + piece.updates.iter().map(of_update).sum::<f64>()
    };
    pieces.iter().map(of_piece).sum()
}

/// Refuses operands that are not as long as the sizes imply, and updates whose rows overlap, are not in order or are not in the
/// stack. Returns how many outputs all pieces have together.
fn check_pieces(kernel: &'static str, pieces: &[Piece<'_>], [m, k]: [usize; 2]) -> Result<usize> {
    for Piece { n, w, bias, updates } in pieces {
        check_shape(kernel, "w", w.len(), [*n, k])?;
        if let Some(bias) = bias {
            check_shape(kernel, "bias", bias.len(), [*n])?;
        }
        let mut free = 0;
        for LowRank { rows, rank, a, b, x, u, .. } in updates {
            let sound = rows.start >= free && rows.start <= rows.end && rows.end <= m;
            let want = "rows of the stack, after those of the update before";
            check_size(kernel, "rows of the update", rows.start, sound, want)?;
            free = rows.end;
            if let Some(x) = x {
                check_shape(kernel, "x of the update", x.len(), [rows.len(), k])?;
            }
            check_shape(kernel, "a", a.len(), [*rank, k])?;
            check_shape(kernel, "b", b.len(), [*n, *rank])?;
            check_shape(kernel, "u", u.len(), [rows.len(), *rank])?;
        }
    }
    Ok(pieces.iter().map(|piece| piece.n).sum())
}
