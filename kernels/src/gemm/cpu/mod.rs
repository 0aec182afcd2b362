//! The products as `output[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`, on vectors or on the unit that
//! multiplies bf16.
//!
//! The bits of an output element are a function of its own operands and of the depth. The depth is cut into blocks, and where they
//! end depends on the depth alone. Within a block one accumulator adds the products in order, and the blocks' sums are added in
//! order. So the bits do not depend on the number of rows, on the number of threads or on the edges of tiles.

pub(super) mod cost;
mod scratch;
pub(super) mod stack;
#[cfg_attr(not(target_arch = "x86_64"), path = "unit/absent.rs")]
mod unit;
mod vectors;

use super::{Dw, Dx, Forward, StackDx, StackForward};
use crate::cpu::Cpu;
use crate::{Device, Result, WeightSlice};
use half::{bf16, f16};

pub(super) fn forward(call: Forward<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Some(unit) = unit::fitting(cpu, call.precision, [[call.n, call.k]]) else {
        return vectors::forward(call, device, cpu);
    };
    unit::forward(unit, call).run(cpu);
    Ok(())
}

pub(super) fn dx(call: Dx<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Some(unit) = unit::fitting(cpu, call.precision, [[call.n, call.k]]) else {
        return vectors::dx(call, device, cpu);
    };
    unit::dx(unit, call).run(cpu);
    Ok(())
}

pub(super) fn dw(call: Dw<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Some(unit) = unit::fitting(cpu, call.precision, [[call.n, call.k]]).filter(|_| call.m > 0) else {
        return vectors::dw(call, device, cpu);
    };
    unit::dw(unit, call).run(cpu);
    Ok(())
}

pub(super) fn stack_forward(call: StackForward<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    stack::forward_runs(call, |run| {
        match unit::fitting(cpu, run.precision, run.pieces.iter().map(|piece| [piece.n, run.k])) {
            Some(unit) => unit::stack_forward(unit, run, device, cpu),
            None => vectors::stack_forward(run, device, cpu),
        }
    })
}

pub(super) fn stack_dx(call: StackDx<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    stack::dx_runs(call, |run| {
        let Some(unit) = unit::fitting(cpu, run.precision, run.pieces.iter().map(|piece| [piece.n, run.k])) else {
            return vectors::stack_dx(run, device, cpu);
        };
        unit::stack_dx(unit, run).run(cpu);
        Ok(())
    })
}

/// The right operand and the order of its elements.
#[derive(Clone, Copy)]
struct Right<'a> {
    values: Values<'a>,
    order: Order,
}

#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// `[depth, cols]`
    Rows,
    /// `[cols, depth]`
    Columns,
}

impl<'a> Values<'a> {
    /// Returns the values of weights. On a device that counts, these are an empty slice in the format of the weights.
    fn of(weights: WeightSlice<'a>) -> Values<'a> {
        match weights {
            WeightSlice::F32(values) => Values::F32(values.cpu_or_none()),
            WeightSlice::F16(values) => Values::F16(values.cpu_or_none()),
            WeightSlice::Bf16(values) => Values::Bf16(values.cpu_or_none()),
        }
    }
}
