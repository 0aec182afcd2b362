//! The calls of the contract as [`Tiled`] ones.

use super::{Down, LeftPart, LeftValues, Order, Output, OutputValues, Right, Section, Start, Target, Tiled, Values};
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::BLOCK;
use crate::gemm::cpu::stack::{add_biases, columns};
use crate::gemm::{Accumulate, Dw, Dx, Forward, LowRank, StackDx, StackForward};
use crate::{Device, FloatSlice, FloatSliceMut, Precision, Result};

pub(in crate::gemm::cpu) fn forward(unit: Unit, call: Forward<'_>, cpu: &Cpu) {
    let Forward { m, n, k, alpha, x, w, y, accumulate, precision } = call;
    let right = Right { values: Values::of(w), order: Order::Columns };
    product(unit, [m, n], left_rows(x, k), right, alpha, accumulate, precision, y, cpu);
}

pub(in crate::gemm::cpu) fn dx(unit: Unit, call: Dx<'_>, cpu: &Cpu) {
    let Dx { m, n, k, alpha, dy, w, dx, accumulate, precision } = call;
    let right = Right { values: Values::of(w), order: Order::Rows };
    let mut left = left_rows(dy.values, n);
    (left.values, left.stride) = (left.values.skip(dy.first), dy.stride);
    product(unit, [m, k], left, right, alpha, accumulate, precision, dx, cpu);
}

pub(in crate::gemm::cpu) fn dw(unit: Unit, call: Dw<'_>, cpu: &Cpu) {
    let Dw { m, n, k, alpha, dy, x, dw, accumulate, precision } = call;
    let values = match x {
        FloatSlice::F32(x) => Values::F32(x.cpu()),
        FloatSlice::Bf16(x) => Values::Bf16(x.cpu()),
    };
    let right = Right { values, order: Order::Rows };
    let values = LeftValues::from(dy.values).skip(dy.first);
    let left = LeftPart { values, stride: dy.stride, depth: m, order: Order::Rows };
    product(unit, [n, k], left, right, alpha, accumulate, precision, dw.into(), cpu);
}

/// Rows along the depth.
fn left_rows(values: FloatSlice<'_>, depth: usize) -> LeftPart {
    LeftPart { values: values.into(), stride: depth, depth, order: Order::Columns }
}

/// One product.
#[expect(clippy::too_many_arguments, reason = "the fields of the calls, which differ in their names alone")]
fn product(
    unit: Unit,
    [rows, cols]: [usize; 2],
    left: LeftPart,
    right: Right<'_>,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    output: FloatSliceMut<'_>,
    cpu: &Cpu,
) {
    let start = if accumulate == Accumulate::Add { Start::Output } else { Start::Zero };
    let output = Output { at: output.into(), stride: cols };
    let sections = vec![Section { part: 0, right }];
    let targets = vec![Target { cols, sections, alpha, start, output }];
    Tiled { unit, rows, precision, left: vec![left], downs: Vec::new(), targets }.run(cpu);
}

/// A run of a stack.
pub(in crate::gemm::cpu) fn stack_forward(
    unit: Unit,
    call: StackForward<'_, '_>,
    device: &Device,
    cpu: &Cpu,
) -> Result<()> {
    let StackForward { m, k, x, pieces, mut y, residual, precision } = call;
    let cols = columns(pieces);
    // the sums begin with the residual or with the bias; where there are both, the bias comes last
    let rows_of_bias: Vec<Option<Vec<f32>>> = (pieces.iter())
        .map(|piece| {
            let bias = piece.bias.filter(|_| residual.is_none())?.cpu();
            let mut row = bias.to_vec();
            row.resize(bias.len().next_multiple_of(BLOCK), 0.0);
            Some(row)
        })
        .collect();
    let at = OutputValues::from(y.reborrow());
    let mut tiled =
        Tiled { unit, rows: m, precision, left: vec![left_rows(x, k)], downs: Vec::new(), targets: Vec::new() };
    // inputs of their own stand before everything that is computed from them
    let own_inputs = pieces.iter().filter_map(|piece| piece.updates.first()?.x);
    tiled.left.extend(own_inputs.map(|x| left_rows(x, k)));
    let (mut first, mut own_part) = (0, 0);
    for (piece, bias) in pieces.iter_mut().zip(&rows_of_bias) {
        let by_columns = |values| Right { values, order: Order::Columns };
        let mut sections = vec![Section { part: 0, right: by_columns(Values::of(piece.w)) }];
        let has_own = piece.updates.first().is_some_and(|update| update.x.is_some());
        own_part += usize::from(has_own);
        if let Some(LowRank { rank, scaling, a, b, u, .. }) = piece.updates.first_mut().filter(|update| update.rank > 0)
        {
            let part = tiled.left.len() + tiled.downs.len();
            sections.push(Section { part, right: by_columns(Values::F32(b.cpu())) });
            tiled.downs.push(Down {
                section: Section { part: if has_own { own_part } else { 0 }, right: by_columns(Values::F32(a.cpu())) },
                rank: *rank,
                alpha: 1.0,
                scale: *scaling,
                u: u.reborrow().cpu().as_mut_ptr(),
            });
        }
        let start = match (residual, bias) {
            (Some(residual), _) => Start::Matrix(residual.cpu().as_ptr().wrapping_add(first)),
            (None, Some(bias)) => Start::Row(bias.as_ptr()),
            (None, None) => Start::Zero,
        };
        let output = Output { at: at.skip(first), stride: cols };
        tiled.targets.push(Target { cols: piece.n, sections, alpha: 1.0, start, output });
        first += piece.n;
    }
    tiled.run(cpu);
    match residual {
        Some(_) => cpu.in_f32(device, y, true, |y| {
            add_biases(pieces, cols, y, cpu);
            Ok(())
        }),
        None => Ok(()),
    }
}

/// A run of a stack.
pub(in crate::gemm::cpu) fn stack_dx(unit: Unit, call: StackDx<'_, '_>, cpu: &Cpu) {
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
            sections.push(Section { part: parts + downs.len(), right: rows(Values::F32(a.cpu())) });
            downs.push(Down {
                section: Section { part, right: rows(Values::F32(b.cpu())) },
                rank: *rank,
                alpha: *scaling,
                scale: 1.0,
                u: du.reborrow().cpu().as_mut_ptr(),
            });
        }
        first += piece.n;
    }
    let output = Output { at: dx.into(), stride: k };
    let targets = vec![Target { cols: k, sections, alpha: 1.0, start: Start::Zero, output }];
    Tiled { unit, rows: m, precision, left, downs, targets }.run(cpu);
}
