//! Attention on the processor, in vectors or on the unit that multiplies bf16. Blocks of keys pass over query rows, and all sums
//! have a fixed order.
//!
//! A row's results depend on its own sequence alone, to the bit: not on the threads, nor on the segments beside it. A branch's
//! `o`, `lse`, `dq`, `dk` and `dv` have the same bits as in the same sequence without a shared prefix. The `dk` and `dv` of a
//! prompt with several branches are sums over the branches, so they are equal only up to rounding.

mod blocks;
mod decode;
mod lists;
#[cfg_attr(not(target_arch = "x86_64"), path = "unit/absent.rs")]
mod unit;
mod vectors;

pub(super) use decode::decode;
pub(super) use lists::Lists;

use crate::arena::taken;
use crate::attention::{Backward, Forward, Geometry, Layout};
use crate::cpu::Cpu;
use crate::{Device, FloatDtype, FloatSlice, FloatSliceMut, Result};
use vectors::backward::{self, Known};
use vectors::forward;

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    let Forward { geometry, layout, qkv, o, lse } = call;
    let (sizes, lse) = ((geometry, layout), lse.cpu());
    match (cpu.isa().unit(), qkv, o) {
        (Some(unit), FloatSlice::Bf16(qkv), FloatSliceMut::Bf16(o)) => {
            unit::forward(device, cpu, unit, sizes, qkv.cpu(), o.cpu(), lse)
        }
        (_, qkv, o) => {
            let qkv = cpu.widened(device, qkv)?;
            cpu.in_f32(device, o, false, |o| forward::forward(device, cpu, sizes, &qkv, o, lse))
        }
    }
}

pub(super) fn backward(device: &Device, cpu: &Cpu, call: Backward<'_>) -> Result<()> {
    let Backward { geometry, layout, qkv, o, lse, d_o, dqkv } = call;
    let (sizes, lse) = ((geometry, layout), lse.cpu());
    match (cpu.isa().unit(), qkv, o, d_o, dqkv) {
        (Some(unit), FloatSlice::Bf16(qkv), FloatSlice::Bf16(o), FloatSlice::Bf16(d_o), FloatSliceMut::Bf16(dqkv)) => {
            let known = Known { qkv: qkv.cpu(), o: o.cpu(), lse, d_o: d_o.cpu() };
            unit::backward(device, cpu, unit, sizes, known, dqkv.cpu())
        }
        (_, qkv, o, d_o, dqkv) => {
            let [qkv, o, d_o] = [cpu.widened(device, qkv)?, cpu.widened(device, o)?, cpu.widened(device, d_o)?];
            let known = Known { qkv: &qkv, o: &o, lse, d_o: &d_o };
            cpu.in_f32(device, dqkv, false, |dqkv| backward::backward(device, cpu, sizes, known, dqkv))
        }
    }
}

/// Bytes that [`forward`] needs while it runs on operands of format `dtype`.
pub(super) fn forward_scratch(cpu: &Cpu, dtype: FloatDtype, geometry: &Geometry, layout: &Layout) -> usize {
    match (cpu.isa().unit(), dtype) {
        (Some(unit), FloatDtype::Bf16) => unit::forward_scratch(cpu, unit, geometry, layout),
        (_, dtype) => {
            let [of_q, of_all] = copies(dtype, geometry, layout);
            of_q + of_all + forward::scratch(cpu, geometry, layout)
        }
    }
}

/// Bytes that [`backward`] needs while it runs on operands of format `dtype`.
pub(super) fn backward_scratch(cpu: &Cpu, dtype: FloatDtype, geometry: &Geometry, layout: &Layout) -> usize {
    match (cpu.isa().unit(), dtype) {
        (Some(unit), FloatDtype::Bf16) => unit::backward_scratch(cpu, unit, geometry, layout),
        (_, dtype) => {
            let [of_q, of_all] = copies(dtype, geometry, layout);
            2 * of_q + 2 * of_all + backward::scratch(cpu, geometry, layout)
        }
    }
}

/// Returns the bytes of an f32 copy of the query heads, and of one of all heads: 0 for operands in f32.
fn copies(dtype: FloatDtype, geometry: &Geometry, layout: &Layout) -> [usize; 2] {
    let heads = geometry.num_attention_heads;
    [heads, heads + 2 * geometry.num_key_value_heads].map(|heads| match dtype {
        FloatDtype::F32 => 0,
        FloatDtype::Bf16 => taken(layout.rows() * heads * geometry.head_dim * size_of::<f32>()),
    })
}
