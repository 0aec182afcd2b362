//! What the products take from the device while they run, and what the threads keep for packing: copies in f32 of operands that
//! are not ([`Cpu::widened`], [`Cpu::in_f32`]), columns as matrices of their own. The unit takes its operands as they are.

use super::stack::{columns, runs};
use super::{unit, vectors};
use crate::cpu::Cpu;
use crate::device::Cost;
use crate::gemm::{Dw, Dx, Forward, LowRank, Piece, StackDx, StackForward};
use crate::{Columns, FloatDtype, Precision};

const F32: usize = size_of::<f32>();

pub(in crate::gemm) fn forward(cpu: &Cpu, call: &Forward<'_>) -> Cost {
    let &Forward { m, n, k, ref x, ref y, precision, .. } = call;
    let scratch = match all_on_unit(cpu, precision, k, [n]) {
        true => 0,
        false => wide(x.dtype(), m * k) + wide(y.dtype(), m * n),
    };
    Cost { operations: product(m, n, k), scratch, packed: packed(cpu, precision, [m, n, k]) }
}

pub(in crate::gemm) fn dx(cpu: &Cpu, call: &Dx<'_>) -> Cost {
    let &Dx { m, n, k, dy, ref dx, precision, .. } = call;
    let scratch = match all_on_unit(cpu, precision, k, [n]) {
        true => 0,
        false => Dense::of(dy, m, n).then(wide(dx.dtype(), m * k)),
    };
    Cost { operations: product(m, n, k), scratch, packed: packed(cpu, precision, [m, k, n]) }
}

pub(in crate::gemm) fn dw(cpu: &Cpu, call: &Dw<'_>) -> Cost {
    let &Dw { m, n, k, dy, ref x, precision, .. } = call;
    let scratch = match m > 0 && all_on_unit(cpu, precision, k, [n]) {
        true => 0,
        false => Dense::of(dy, m, n).then(wide(x.dtype(), m * k)),
    };
    Cost { operations: product(m, n, k), scratch, packed: packed(cpu, precision, [n, k, m]) }
}

pub(in crate::gemm) fn stack_forward(cpu: &Cpu, call: &StackForward<'_, '_>) -> Cost {
    let &StackForward { m, k, ref x, ref pieces, ref y, precision, .. } = call;
    let cols = columns(pieces);
    let on_unit = all_on_unit(cpu, precision, k, pieces.iter().map(|piece| piece.n));
    let mut cost = Cost { operations: stack(m, k, pieces), ..Cost::default() };
    for rows in runs(m, pieces) {
        let own = |update: &LowRank<'_>| match &update.x {
            Some(x) if update.rows.contains(&rows.start) => wide(x.dtype(), rows.len() * k),
            _ => 0,
        };
        let own = pieces.iter().flat_map(|piece| &piece.updates).map(own).max().unwrap_or(0);
        let copies = wide(x.dtype(), rows.len() * k) + wide(y.dtype(), rows.len() * cols) + own;
        cost.scratch = cost.scratch.max(if on_unit { 0 } else { copies });
        cost.packed = cost.packed.max(packed(cpu, precision, [rows.len(), cols, k]));
    }
    cost
}

pub(in crate::gemm) fn stack_dx(cpu: &Cpu, call: &StackDx<'_, '_>) -> Cost {
    let &StackDx { m, k, dy, ref pieces, ref dx, precision } = call;
    let cols = columns(pieces);
    let on_unit = all_on_unit(cpu, precision, k, pieces.iter().map(|piece| piece.n));
    let mut cost = Cost { operations: stack(m, k, pieces), ..Cost::default() };
    for rows in runs(m, pieces) {
        let dense = |piece: &Piece<'_>| {
            let dy = Columns { values: dy, first: 0, stride: cols };
            Dense::of(dy, rows.len(), piece.n).then(0)
        };
        let copies = wide(dx.dtype(), rows.len() * k) + pieces.iter().map(dense).max().unwrap_or(0);
        cost.scratch = cost.scratch.max(if on_unit { 0 } else { copies });
        cost.packed = cost.packed.max(packed(cpu, precision, [rows.len(), k, cols]));
    }
    cost
}

/// Operations of a product.
fn product(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// Operations of a stack in either direction.
fn stack(m: usize, k: usize, pieces: &[Piece<'_>]) -> f64 {
    let of_piece = |piece: &Piece<'_>| {
        let of_update = |update: &LowRank<'_>| product(update.rows.len(), update.rank, k + piece.n);
        product(m, piece.n, k) + piece.updates.iter().map(of_update).sum::<f64>()
    };
    pieces.iter().map(of_piece).sum()
}

/// Bytes of a copy in f32, if the values are not.
fn wide(dtype: FloatDtype, len: usize) -> usize {
    if dtype == FloatDtype::F32 { 0 } else { len * F32 }
}

/// What columns as a matrix of their own take.
struct Dense {
    while_made: usize,
    held: usize,
}

impl Dense {
    /// `n` columns of `rows` rows.
    fn of(columns: Columns<'_>, rows: usize, n: usize) -> Dense {
        let wide = wide(columns.values.dtype(), rows * columns.stride);
        if n == columns.stride {
            return Dense { while_made: wide, held: wide };
        }
        let held = rows * n * F32;
        Dense { while_made: wide + held, held }
    }

    /// The most that is held if what comes next takes `bytes`.
    fn then(self, bytes: usize) -> usize {
        self.while_made.max(self.held + bytes)
    }
}

/// What a product `[rows, depth] · [depth, cols]` makes the threads keep. An estimate: which task a thread packs last is a
/// matter of chance.
pub(crate) fn packed(cpu: &Cpu, precision: Precision, [rows, cols, depth]: [usize; 3]) -> usize {
    match unit::fitting(cpu, precision, [[cols, depth]]) {
        Some(unit) => unit::packed_bytes(unit, cpu.threads(), precision, [rows, cols, depth]),
        None => vectors::packed_bytes(cpu.threads(), precision, [rows, cols, depth]),
    }
}

/// Whether all matrices of `depth` by one of `sides` are multiplied on the unit.
fn all_on_unit(cpu: &Cpu, precision: Precision, depth: usize, sides: impl IntoIterator<Item = usize>) -> bool {
    unit::fitting(cpu, precision, sides.into_iter().map(|side| [side, depth])).is_some()
}
