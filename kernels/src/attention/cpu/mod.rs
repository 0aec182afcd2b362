//! Attention on the processor, in f32: blocks of keys pass over tiles of query rows, all sums in a fixed order.
//!
//! What a row gets depends on its own sequence alone, to the bit: not on the threads, not on the segments beside it. A branch
//! gets the bits of the same sequence without a shared prefix for `o`, `lse`, `dq` and its own `dk` and `dv`; the `dk` and `dv`
//! of a prompt with several branches are sums over them, and so equal to rounding only.

mod backward;
mod blocks;
mod decode;
mod forward;
mod product;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tiles;

use backward::{Known, Tree, trees};
use blocks::{BLOCK, Blocks};
use product::PAD;

pub(super) use decode::decode;

use crate::attention::{Backward, Forward, Geometry, Layout, Segment};
use crate::cpu::simd::{Simd, Stored};
use crate::device::Cpu;
use crate::{Device, FloatDtype, Result, ScratchBytes};
#[cfg(target_arch = "x86_64")]
use crate::{FloatSlice, FloatSliceMut};
use std::cmp::Reverse;
use std::ops::Range;

/// What the calls of all layers walk over.
#[derive(Debug)]
pub(super) struct Lists {
    /// Rows that no segment covers.
    uncovered: Vec<Range<usize>>,
    blocks: Blocks,
    trees: Vec<Tree>,
}

impl Lists {
    /// For sound segments.
    pub(super) fn new(rows: usize, segments: &[Segment]) -> Lists {
        let blocks = Blocks::new(segments);
        Lists { uncovered: uncovered(rows, segments), trees: trees(segments, &blocks), blocks }
    }
}

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    let Forward { geometry, layout, qkv, o, lse } = call;
    let (sizes, lse) = ((geometry, layout), lse.cpu());
    #[cfg(target_arch = "x86_64")]
    let (qkv, o) = match (cpu.isa().unit(), qkv, o) {
        (Some(unit), FloatSlice::Bf16(qkv), FloatSliceMut::Bf16(o)) => {
            return tiles::forward(device, cpu, unit, sizes, qkv.cpu(), o.cpu(), lse);
        }
        (_, qkv, o) => (qkv, o),
    };
    let qkv = cpu.widened(device, qkv)?;
    cpu.in_f32(device, o, false, |o| forward::forward(device, cpu, sizes, &qkv, o, lse))
}

pub(super) fn backward(device: &Device, cpu: &Cpu, call: Backward<'_>) -> Result<()> {
    let Backward { geometry, layout, qkv, o, lse, d_o, dqkv } = call;
    let (sizes, lse) = ((geometry, layout), lse.cpu());
    #[cfg(target_arch = "x86_64")]
    let dqkv = match (cpu.isa().unit(), qkv, o, d_o, dqkv) {
        (Some(unit), FloatSlice::Bf16(qkv), FloatSlice::Bf16(o), FloatSlice::Bf16(d_o), FloatSliceMut::Bf16(dqkv)) => {
            let known = Known { qkv: qkv.cpu(), o: o.cpu(), lse, d_o: d_o.cpu() };
            return tiles::backward(device, cpu, unit, sizes, known, dqkv.cpu());
        }
        (_, _, _, _, dqkv) => dqkv,
    };
    let [qkv, o, d_o] = [cpu.widened(device, qkv)?, cpu.widened(device, o)?, cpu.widened(device, d_o)?];
    let known = Known { qkv: &qkv, o: &o, lse, d_o: &d_o };
    cpu.in_f32(device, dqkv, false, |dqkv| backward::backward(device, cpu, sizes, known, dqkv))
}

/// What [`forward`] and [`backward`] take while they run on operands of format `dtype`.
pub(super) fn scratch(cpu: &Cpu, dtype: FloatDtype, geometry: Geometry, layout: &Layout) -> ScratchBytes {
    let rows = layout.rows();
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim: d, .. } = geometry;
    let Lists { blocks, trees, .. } = layout.cpu();
    let largest = trees.iter().map(|tree| tree.rows).max().unwrap_or(0);
    let (blocks, floats) = (blocks.len(), size_of::<f32>());
    let on_unit = dtype == FloatDtype::Bf16 && cpu.isa().has_bf16_unit();
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
    #[cfg(target_arch = "x86_64")]
    let of_unit = on_unit.then(|| tiles::scratch_lens(&geometry, blocks_of_tree));
    #[cfg(not(target_arch = "x86_64"))]
    let of_unit = None;
    let (forward_tile, backward_tile) =
        of_unit.unwrap_or_else(|| (forward::scratch_len(&geometry), backward::scratch_len(largest, d)));
    let threads = |per_thread: usize| cpu.threads() * per_thread.next_multiple_of(16) * floats;
    // copies in f32 of what is read and written
    let copies = |heads: usize| match (dtype, on_unit) {
        (FloatDtype::Bf16, false) => rows * heads * d * floats,
        _ => 0,
    };
    let sums = (rows * heads + 2 * heads * blocks * rows_form) * floats;
    let qkv = heads + 2 * kv_heads;
    ScratchBytes {
        forward: copies(qkv + heads) + packed(2) + threads(forward_tile),
        backward: copies(2 * qkv + 2 * heads) + packed(3) + sums + threads(backward_tile),
    }
}

/// Rows that no segment covers.
fn uncovered(rows: usize, segments: &[Segment]) -> Vec<Range<usize>> {
    let mut covered: Vec<_> = segments.iter().map(|segment| &segment.rows).filter(|rows| !rows.is_empty()).collect();
    covered.sort_by_key(|rows| rows.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in covered {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = range.end;
    }
    if at < rows {
        gaps.push(at..rows);
    }
    gaps
}

/// The dearest first, so that the threads finish together; equal ones in their order.
fn heaviest_first<T>(jobs: &mut [T], cost: impl Fn(&T) -> usize) {
    jobs.sort_by_key(|job| Reverse(cost(job)));
}

/// `a·b`
///
/// # Safety
/// As [`Simd`]; the slices are equally long.
#[inline(always)]
unsafe fn dot<S: Simd, A: Stored, B: Stored>(a: &[A], b: &[B]) -> f32 {
    // SAFETY: the caller's contract; loads end inside the slices.
    unsafe {
        let whole = a.len() / S::LANES * S::LANES;
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::fma(A::load::<S>(a.as_ptr().add(at)), B::load::<S>(b.as_ptr().add(at)), sum);
        }
        if whole < a.len() {
            let lanes = a.len() - whole;
            let (a, b) = (a.as_ptr().add(whole), b.as_ptr().add(whole));
            sum = S::fma(A::load_partial::<S>(a, lanes), B::load_partial::<S>(b, lanes), sum);
        }
        S::reduce_add(sum)
    }
}
