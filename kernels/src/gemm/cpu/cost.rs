//! The memory that the products take from the device while they run, and the memory that the threads keep for packing. On vectors,
//! activations that are not f32 are copied to f32 ([`Cpu::widened`], [`Cpu::in_f32`]), and some columns of a matrix are copied to a
//! separate matrix. The unit reads its operands in place.

use super::stack::columns;
use super::{unit, vectors};
use crate::arena::taken;
use crate::cpu::Cpu;
use crate::device::{Cost, Packed};
use crate::gemm::stack::operations as stack_operations;
use crate::gemm::{self, Accumulate, Dw, Dx, Forward, LowRank, StackDx, StackForward};
use crate::{Columns, FloatDtype};

const F32: usize = size_of::<f32>();

pub(crate) fn forward(cpu: &Cpu, call: Forward<'_>) -> Cost {
    let Forward { m, n, k, x, ref y, accumulate, precision, .. } = call;
    let operations = gemm::operations(m, n, k);
    if let Some(unit) = unit::fitting(cpu, precision, [[n, k]]) {
        return Cost { operations, scratch: 0, packed: unit::forward(unit, call).packed(cpu) };
    }
    let scratch = wide(x.dtype(), m * k) + wide(y.dtype(), m * n);
    Cost { operations, scratch, packed: vectors::packed(cpu, precision, accumulate, [m, n, k]) }
}

pub(crate) fn dx(cpu: &Cpu, call: Dx<'_>) -> Cost {
    let Dx { m, n, k, dy, ref dx, accumulate, precision, .. } = call;
    let operations = gemm::operations(m, n, k);
    if let Some(unit) = unit::fitting(cpu, precision, [[n, k]]) {
        return Cost { operations, scratch: 0, packed: unit::dx(unit, call).packed(cpu) };
    }
    let scratch = Dense::of(dy, m, n).then(wide(dx.dtype(), m * k));
    Cost { operations, scratch, packed: vectors::packed(cpu, precision, accumulate, [m, k, n]) }
}

pub(in crate::gemm) fn dw(cpu: &Cpu, call: Dw<'_>) -> Cost {
    let Dw { m, n, k, dy, x, precision, .. } = call;
    let operations = gemm::operations(m, n, k);
    if let Some(unit) = unit::fitting(cpu, precision, [[n, k]]).filter(|_| m > 0) {
        return Cost { operations, scratch: 0, packed: unit::dw(unit, call).packed(cpu) };
    }
    let scratch = Dense::of(dy, m, n).then(wide(x.dtype(), m * k));
    Cost { operations, scratch, packed: vectors::packed_by_dw(cpu, [m, n, k]) }
}

/// Returns the cost of a stack's outputs for one run of rows.
pub(in crate::gemm) fn stack_forward(cpu: &Cpu, run: StackForward<'_, '_>) -> Cost {
    let StackForward { m, k, x, ref y, residual, precision, .. } = run;
    let operations = stack_operations(m, k, run.pieces);
    let of_y = wide(y.dtype(), m * columns(run.pieces));
    if let Some(unit) = unit::fitting(cpu, precision, run.pieces.iter().map(|piece| [piece.n, k])) {
        let has_biases = run.pieces.iter().any(|piece| piece.bias.is_some());
        let scratch = if residual.is_some() && has_biases { of_y } else { 0 };
        return Cost { operations, scratch, packed: unit::stack_forward_packed(unit, run, cpu) };
    }
    let accumulate = if residual.is_some() { Accumulate::Add } else { Accumulate::Set };
    let mut own_x = 0;
    let mut packed = Packed::default();
    for piece in &*run.pieces {
        let of = |accumulate, sizes| vectors::packed(cpu, precision, accumulate, sizes);
        packed = packed.and(of(accumulate, [m, piece.n, k]));
        if let Some(LowRank { rank, x, .. }) = piece.updates.first() {
            own_x = own_x.max(x.map_or(0, |x| wide(x.dtype(), m * k)));
            packed = packed.and(of(Accumulate::Set, [m, *rank, k])).and(of(Accumulate::Add, [m, piece.n, *rank]));
        }
    }
    Cost { operations, scratch: wide(x.dtype(), m * k) + of_y + own_x, packed }
}

/// Returns the cost of the gradient of a stack's input for one run of rows.
pub(in crate::gemm) fn stack_dx(cpu: &Cpu, run: StackDx<'_, '_>) -> Cost {
    let StackDx { m, k, dy, ref dx, precision, .. } = run;
    let operations = stack_operations(m, k, run.pieces);
    if let Some(unit) = unit::fitting(cpu, precision, run.pieces.iter().map(|piece| [piece.n, k])) {
        return Cost { operations, scratch: 0, packed: unit::stack_dx(unit, run).packed(cpu) };
    }
    let stride = columns(run.pieces);
    let (mut dense, mut packed, mut accumulate) = (0, Packed::default(), Accumulate::Set);
    for piece in &*run.pieces {
        let of = |accumulate, sizes| vectors::packed(cpu, precision, accumulate, sizes);
        dense = dense.max(Dense::of(Columns { values: dy, first: 0, stride }, m, piece.n).then(0));
        packed = packed.and(of(accumulate, [m, k, piece.n]));
        accumulate = Accumulate::Add;
        if let Some(LowRank { rank, .. }) = piece.updates.first() {
            packed = packed.and(of(Accumulate::Set, [m, *rank, piece.n])).and(of(Accumulate::Add, [m, k, *rank]));
        }
    }
    Cost { operations, scratch: wide(dx.dtype(), m * k) + dense, packed }
}

/// Bytes of a copy in f32; 0 if the values are f32 already.
fn wide(dtype: FloatDtype, len: usize) -> usize {
    if dtype == FloatDtype::F32 { 0 } else { taken(len * F32) }
}

/// Bytes for a copy of some columns of a matrix to a separate f32 matrix: while the copy is made, and afterwards.
struct Dense {
    while_made: usize,
    held: usize,
}

impl Dense {
    /// Returns the bytes for `n` columns of `rows` rows.
    fn of(columns: Columns<'_>, rows: usize, n: usize) -> Dense {
        let wide = wide(columns.values.dtype(), rows * columns.stride);
        if n == columns.stride {
            return Dense { while_made: wide, held: wide };
        }
        let held = taken(rows * n * F32);
        Dense { while_made: wide + held, held }
    }

    /// Returns the largest number of bytes held at once if `bytes` more are taken after the copy is made.
    fn then(self, bytes: usize) -> usize {
        self.while_made.max(self.held + bytes)
    }
}
