//! Attention on the processor, on vectors or on the unit that multiplies bf16: blocks of keys pass over query rows, all sums in
//! a fixed order.
//!
//! What a row gets depends on its own sequence alone, to the bit: not on the threads, not on the segments beside it. A branch
//! gets the bits of the same sequence without a shared prefix for `o`, `lse`, `dq` and its own `dk` and `dv`; the `dk` and `dv`
//! of a prompt with several branches are sums over them, and so equal to rounding only.

mod blocks;
mod decode;
mod lists;
#[cfg_attr(not(target_arch = "x86_64"), path = "unit/absent.rs")]
mod unit;
mod vectors;

pub(super) use decode::decode;
pub(super) use lists::Lists;

use crate::attention::{Backward, Forward, Geometry, Layout};
use crate::cpu::Cpu;
use crate::{Device, FloatDtype, FloatSlice, FloatSliceMut, Result, ScratchBytes};
use blocks::{BLOCK, PAD};
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

/// What [`forward`] and [`backward`] take while they run on operands of format `dtype`.
pub(super) fn scratch(cpu: &Cpu, dtype: FloatDtype, geometry: Geometry, layout: &Layout) -> ScratchBytes {
    let rows = layout.rows();
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim: d, .. } = geometry;
    let Lists { blocks, trees, .. } = layout.cpu();
    let largest = trees.iter().map(|tree| tree.rows).max().unwrap_or(0);
    let (blocks, floats) = (blocks.len(), size_of::<f32>());
    let unit = cpu.isa().unit().filter(|_| dtype == FloatDtype::Bf16);
    let on_unit = unit.is_some();
    // what a block's rows of one head are, as the f32 path lays them out and as the unit's does
    let (rows_form, along_form) = match on_unit {
        false => (BLOCK * d.next_multiple_of(PAD), BLOCK * d),
        true => (BLOCK * d.next_multiple_of(32), BLOCK * d.next_multiple_of(32)),
    };
    let packed = |forms: usize| {
        let numbers = blocks * kv_heads * ((forms - 1) * along_form + rows_form);
        numbers * if on_unit { size_of::<half::bf16>() } else { size_of::<f32>() }
    };
    // a tree begins and ends within a block
    let blocks_of_tree = largest.div_ceil(BLOCK) + 2;
    let (forward_scratch, backward_scratch) = match unit {
        Some(unit) => unit::scratch_lens(unit, &geometry, blocks_of_tree),
        None => (forward::scratch_len(&geometry), backward::scratch_len(largest, d)),
    };
    let threads = |per_thread: usize| cpu.threads() * per_thread.next_multiple_of(16) * floats;
    // copies in f32 of what is read and written
    let copies = |heads: usize| match (dtype, on_unit) {
        (FloatDtype::Bf16, false) => rows * heads * d * floats,
        _ => 0,
    };
    let sums = (rows * heads + 2 * heads * blocks * rows_form) * floats;
    let qkv = heads + 2 * kv_heads;
    ScratchBytes {
        forward: copies(qkv + heads) + packed(2) + threads(forward_scratch),
        backward: copies(2 * qkv + 2 * heads) + packed(3) + sums + threads(backward_scratch),
    }
}
