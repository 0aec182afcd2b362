//! Turns the kernel's calls into [`Tiled`] ones.

use super::{Down, LeftPart, LeftValues, Order, Output, OutputValues, Right, Section, Start, Target, Tiled, Values};
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::BLOCK;
use crate::device::Packed;
use crate::gemm::cpu::stack::{add_biases, columns};
use crate::gemm::{Accumulate, Dw, Dx, Forward, LowRank, Piece, StackDx, StackForward};
use crate::{Device, FloatSlice, FloatSliceMut, Precision, Result};

pub(in crate::gemm::cpu) fn forward(unit: Unit, call: Forward<'_>) -> Tiled<'_> {
    let Forward { m, n, k, alpha, x, w, y, accumulate, precision } = call;
    let right = Right { values: Values::of(w), order: Order::Columns };
    product(unit, [m, n], left_rows(x, k), right, alpha, accumulate, precision, y)
}

pub(in crate::gemm::cpu) fn dx(unit: Unit, call: Dx<'_>) -> Tiled<'_> {
    let Dx { m, n, k, alpha, dy, w, dx, accumulate, precision } = call;
    let right = Right { values: Values::of(w), order: Order::Rows };
    let mut left = left_rows(dy.values, n);
    (left.values, left.stride) = (left.values.skip(dy.first), dy.stride);
    product(unit, [m, k], left, right, alpha, accumulate, precision, dx)
}

pub(in crate::gemm::cpu) fn dw(unit: Unit, call: Dw<'_>) -> Tiled<'_> {
    let Dw { m, n, k, alpha, dy, x, dw, accumulate, precision } = call;
    let values = match x {
        FloatSlice::F32(x) => Values::F32(x.cpu_or_none()),
        FloatSlice::Bf16(x) => Values::Bf16(x.cpu_or_none()),
    };
    let right = Right { values, order: Order::Rows };
    let values = LeftValues::from(dy.values).skip(dy.first);
    let left = LeftPart { values, stride: dy.stride, depth: m, order: Order::Rows };
    product(unit, [n, k], left, right, alpha, accumulate, precision, dw.into())
}

/// Returns a left operand whose rows are along the depth: `[rows, depth]`.
fn left_rows(values: FloatSlice<'_>, depth: usize) -> LeftPart {
    LeftPart { values: values.into(), stride: depth, depth, order: Order::Columns }
}

/// Prepares a single product.
#[expect(clippy::too_many_arguments, reason = "the fields of the calls, which differ in their names alone")]
fn product<'a>(
    unit: Unit,
    [rows, cols]: [usize; 2],
    left: LeftPart,
    right: Right<'a>,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    output: FloatSliceMut<'a>,
) -> Tiled<'a> {
    let start = if accumulate == Accumulate::Add { Start::Output } else { Start::Zero };
    let output = Output { at: output.into(), stride: cols };
    let sections = vec![Section { part: 0, right }];
    let targets = vec![Target { cols, sections, alpha, start, output }];
    Tiled { unit, rows, precision, left: vec![left], downs: Vec::new(), targets }
}

/// Computes a stack's outputs for one run of rows.
pub(in crate::gemm::cpu) fn stack_forward(
    unit: Unit,
    call: StackForward<'_, '_>,
    device: &Device,
    cpu: &Cpu,
) -> Result<()> {
    let mut call = call;
    let biases = rows_of_bias(&call);
    tiled_stack_forward(unit, &mut call, &biases).run(cpu);
    let StackForward { pieces, y, residual, .. } = call;
    match residual {
        Some(_) => cpu.in_f32(device, y, true, |y| {
            add_biases(pieces, columns(pieces), y, cpu);
            Ok(())
        }),
        None => Ok(()),
    }
}

/// Returns the bytes that the threads keep for packing after [`stack_forward`].
pub(in crate::gemm::cpu) fn stack_forward_packed(unit: Unit, call: StackForward<'_, '_>, cpu: &Cpu) -> Packed {
    let mut call = call;
    let biases = rows_of_bias(&call);
    tiled_stack_forward(unit, &mut call, &biases).packed(cpu)
}

/// Returns, for each layer, the bias that its sums begin with, padded to whole panels. With a residual, the sums begin with the
/// residual and the biases are added last, so all entries are `None`.
fn rows_of_bias(call: &StackForward<'_, '_>) -> Vec<Option<Vec<f32>>> {
    let of_piece = |piece: &Piece<'_>| {
        let mut row = piece.bias.filter(|_| call.residual.is_none())?.cpu_or_none().to_vec();
        row.resize(piece.n.next_multiple_of(BLOCK), 0.0);
        Some(row)
    };
    call.pieces.iter().map(of_piece).collect()
}

fn tiled_stack_forward<'a>(
    unit: Unit,
    call: &'a mut StackForward<'_, '_>,
    biases: &'a [Option<Vec<f32>>],
) -> Tiled<'a> {
    let StackForward { m, k, x, pieces, y, residual, precision } = call;
    let (m, k, x, residual, precision, cols) = (*m, *k, *x, *residual, *precision, columns(pieces));
    let at = OutputValues::from(y.reborrow());
    let mut tiled =
        Tiled { unit, rows: m, precision, left: vec![left_rows(x, k)], downs: Vec::new(), targets: Vec::new() };
    // all inputs come before the parts that are computed from them: first the stack's input, then the inputs of updates that have
    // their own
    let own_inputs = pieces.iter().filter_map(|piece| piece.updates.first()?.x);
    tiled.left.extend(own_inputs.map(|x| left_rows(x, k)));
    let (mut first, mut own_part) = (0, 0);
    for (piece, bias) in pieces.iter_mut().zip(biases) {
        let by_columns = |values| Right { values, order: Order::Columns };
        let mut sections = vec![Section { part: 0, right: by_columns(Values::of(piece.w)) }];
        let has_own = piece.updates.first().is_some_and(|update| update.x.is_some());
        own_part += usize::from(has_own);
        if let Some(LowRank { rank, scaling, a, b, u, .. }) = piece.updates.first_mut().filter(|update| update.rank > 0)
        {
            let part = tiled.left.len() + tiled.downs.len();
            sections.push(Section { part, right: by_columns(Values::F32(b.cpu_or_none())) });
            tiled.downs.push(Down {
                section: Section {
                    part: if has_own { own_part } else { 0 },
                    right: by_columns(Values::F32(a.cpu_or_none())),
                },
                rank: *rank,
                alpha: 1.0,
                scale: *scaling,
                u: u.reborrow().cpu_or_none().as_mut_ptr(),
            });
        }
        let start = match (residual, bias) {
            (Some(residual), _) => Start::Matrix(residual.cpu_or_none().as_ptr().wrapping_add(first)),
            (None, Some(bias)) => Start::Row(bias.as_ptr()),
            (None, None) => Start::Zero,
        };
        let output = Output { at: at.skip(first), stride: cols };
        tiled.targets.push(Target { cols: piece.n, sections, alpha: 1.0, start, output });
        first += piece.n;
    }
    tiled
}

/// Prepares the gradient of a stack's input for one run of rows.
pub(in crate::gemm::cpu) fn stack_dx<'a>(unit: Unit, call: StackDx<'a, '_>) -> Tiled<'a> {
    let StackDx { m, k, dy, pieces, dx, precision } = call;
    let stride = columns(pieces);
    let rows = |values| Right { values, order: Order::Rows };
    let (mut left, mut downs, mut sections) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    let parts = pieces.len();
    for (part, piece) in pieces.iter_mut().enumerate() {
        let values = LeftValues::from(dy).skip(first);
        left.push(LeftPart { values, stride, depth: piece.n, order: Order::Columns });
        sections.push(Section { part, right: rows(Values::of(piece.w)) });
        if let Some(LowRank { rank, scaling, a, b, u: du, .. }) =
            piece.updates.first_mut().filter(|update| update.rank > 0)
        {
            sections.push(Section { part: parts + downs.len(), right: rows(Values::F32(a.cpu_or_none())) });
            downs.push(Down {
                section: Section { part, right: rows(Values::F32(b.cpu_or_none())) },
                rank: *rank,
                alpha: *scaling,
                scale: 1.0,
                u: du.reborrow().cpu_or_none().as_mut_ptr(),
            });
        }
        first += piece.n;
    }
    let output = Output { at: dx.into(), stride: k };
    let targets = vec![Target { cols: k, sections, alpha: 1.0, start: Start::Zero, output }];
    Tiled { unit, rows: m, precision, left, downs, targets }
}
