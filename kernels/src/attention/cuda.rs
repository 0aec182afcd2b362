//! CUDA version: a simple one, with a warp for each row and head.

use super::{Backward, Decode, Forward, Segment};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::error::check_size;
use crate::{Buffer, Device, FloatSlice, FloatSliceMut, Result};
use half::bf16;

/// A layout in the memory of a card.
#[derive(Debug)]
pub(super) struct Lists {
    /// Six numbers for each segment: the start and end of its rows, the start and length of its prefix, and the start and end of
    /// its list in `children`.
    segments: Buffer<u32>,
    /// For each segment, the list of the segments that have its rows as their prefix. The lists follow each other.
    children: Buffer<u32>,
    /// The segment of each row.
    segment_of: Buffer<u32>,
    rows: usize,
}

/// Stands in `segment_of` for a row that no segment covers.
const NONE: u32 = u32::MAX;

impl Lists {
    pub(super) fn new(device: &Device, rows: usize, segments: &[Segment]) -> Result<Lists> {
        let mut segment_of = vec![NONE; rows];
        let (mut flat, mut children) = (Vec::new(), Vec::new());
        for (number, segment) in segments.iter().enumerate() {
            segment_of[segment.rows.clone()].fill(number as u32);
            let first = children.len();
            // a segment of no rows is nobody's prefix
            if segment.prefix.is_empty() && !segment.rows.is_empty() {
                let is_child = |(_, other): &(usize, &Segment)| other.prefix == segment.rows;
                children.extend(segments.iter().enumerate().filter(is_child).map(|(child, _)| child as u32));
            }
            let Segment { rows, prefix } = segment;
            flat.extend([rows.start, rows.end, prefix.start, prefix.len(), first, children.len()].map(|n| n as u32));
        }
        Ok(Lists {
            segments: device.upload("attention.layout", &flat)?,
            children: device.upload("attention.layout", &children)?,
            segment_of: device.upload("attention.layout", &segment_of)?,
            rows,
        })
    }

    fn tree(&self) -> Tree {
        Tree {
            segments: self.segments.view().cuda(),
            children: self.children.view().cuda(),
            segment_of: self.segment_of.view().cuda(),
            rows: self.rows as u32,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Tree {
    segments: Ptr<u32>,
    children: Ptr<u32>,
    segment_of: Ptr<u32>,
    rows: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Geometry {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    window: u32,
    scale: f32,
    cap: f32,
}

impl Geometry {
    /// For positions below `positions`. A window as wide as those is none.
    fn new(of: super::Geometry, positions: usize) -> Geometry {
        Geometry {
            heads: of.num_attention_heads as u32,
            kv_heads: of.num_key_value_heads as u32,
            head_dim: of.head_dim as u32,
            window: of.sliding_window.filter(|window| *window < positions).unwrap_or(0) as u32,
            scale: of.scale,
            cap: of.softcap.unwrap_or(0.0),
        }
    }

    /// Returns a grid with a warp for each row and head, four warps in a block.
    fn grid(rows: usize, heads: u32) -> Grid {
        Grid::rows((rows * heads as usize).div_ceil(4))
    }
}

#[repr(C)]
struct ForwardArgs<T> {
    o: PtrMut<T>,
    lse: PtrMut<f32>,
    qkv: Ptr<T>,
    tree: Tree,
    geometry: Geometry,
}

#[repr(C)]
struct BackwardArgs<T> {
    dqkv: PtrMut<T>,
    qkv: Ptr<T>,
    o: Ptr<T>,
    lse: Ptr<f32>,
    d_o: Ptr<T>,
    tree: Tree,
    geometry: Geometry,
}

impl<T> Clone for BackwardArgs<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for BackwardArgs<T> {}

#[repr(C)]
struct DecodeArgs<T> {
    o: PtrMut<T>,
    lengths: Ptr<u32>,
    qkv: Ptr<T>,
    k_cache: Ptr<T>,
    v_cache: Ptr<T>,
    from_keys_to_values: u64,
    capacity: u64,
    batch: u32,
    geometry: Geometry,
}

/// The kernels for one float format.
struct Kernels<T> {
    forward: Entry<ForwardArgs<T>>,
    queries: Entry<BackwardArgs<T>>,
    keys: Entry<BackwardArgs<T>>,
    decode: Entry<DecodeArgs<T>>,
}

#[cfg(test)]
impl<T> Kernels<T> {
    fn any(&self) -> [crate::cuda::AnyEntry; 4] {
        [self.forward.any(), self.queries.any(), self.keys.any(), self.decode.any()]
    }
}

const F32: Kernels<f32> = Kernels {
    forward: Entry::new(Module::Attention, c"attention_forward_f32", 128),
    queries: Entry::new(Module::Attention, c"attention_queries_f32", 128),
    keys: Entry::new(Module::Attention, c"attention_keys_f32", 128),
    decode: Entry::new(Module::Attention, c"attention_decode_f32", 128),
};

const BF16: Kernels<bf16> = Kernels {
    forward: Entry::new(Module::Attention, c"attention_forward_bf16", 128),
    queries: Entry::new(Module::Attention, c"attention_queries_bf16", 128),
    keys: Entry::new(Module::Attention, c"attention_keys_bf16", 128),
    decode: Entry::new(Module::Attention, c"attention_decode_bf16", 128),
};

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    [F32.any(), BF16.any()].concat()
}

/// Columns of a head that a warp holds (`COLUMNS` of attention.cu for each lane).
const MOST_COLUMNS: usize = 512;

fn check_head_dim(kernel: &'static str, of: super::Geometry) -> Result<()> {
    check_size(kernel, "head_dim", of.head_dim, of.head_dim <= MOST_COLUMNS, "at most 512 on a GPU")
}

pub(super) fn forward(cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    check_head_dim("attention.forward", call.geometry)?;
    let (tree, geometry, lse) =
        (call.layout.cuda().tree(), Geometry::new(call.geometry, call.layout.rows()), call.lse.cuda());
    let grid = Geometry::grid(call.layout.rows(), geometry.heads);
    match (call.qkv, call.o) {
        (FloatSlice::F32(qkv), FloatSliceMut::F32(o)) => {
            let (qkv, o) = (qkv.cuda(), o.cuda());
            cuda.launch(&F32.forward, grid, ForwardArgs { o, lse, qkv, tree, geometry })
        }
        (FloatSlice::Bf16(qkv), FloatSliceMut::Bf16(o)) => {
            let (qkv, o) = (qkv.cuda(), o.cuda());
            cuda.launch(&BF16.forward, grid, ForwardArgs { o, lse, qkv, tree, geometry })
        }
        _ => unreachable!("`run` refuses two formats"),
    }
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    check_head_dim("attention.backward", call.geometry)?;
    let (tree, geometry, lse) =
        (call.layout.cuda().tree(), Geometry::new(call.geometry, call.layout.rows()), call.lse.cuda());
    let rows = call.layout.rows();
    let [queries, keys] = [geometry.heads, geometry.kv_heads].map(|heads| Geometry::grid(rows, heads));
    match (call.qkv, call.o, call.d_o, call.dqkv) {
        (FloatSlice::F32(qkv), FloatSlice::F32(o), FloatSlice::F32(d_o), FloatSliceMut::F32(dqkv)) => {
            let (qkv, o, d_o, dqkv) = (qkv.cuda(), o.cuda(), d_o.cuda(), dqkv.cuda());
            let args = BackwardArgs { dqkv, qkv, o, lse, d_o, tree, geometry };
            cuda.launch(&F32.queries, queries, args)?;
            cuda.launch(&F32.keys, keys, args)
        }
        (FloatSlice::Bf16(qkv), FloatSlice::Bf16(o), FloatSlice::Bf16(d_o), FloatSliceMut::Bf16(dqkv)) => {
            let (qkv, o, d_o, dqkv) = (qkv.cuda(), o.cuda(), d_o.cuda(), dqkv.cuda());
            let args = BackwardArgs { dqkv, qkv, o, lse, d_o, tree, geometry };
            cuda.launch(&BF16.queries, queries, args)?;
            cuda.launch(&BF16.keys, keys, args)
        }
        _ => unreachable!("`run` refuses two formats"),
    }
}

pub(super) fn decode(cuda: &Cuda, call: Decode<'_>) -> Result<()> {
    check_head_dim("attention.decode", call.geometry)?;
    let (geometry, lengths) = (Geometry::new(call.geometry, call.capacity), call.lengths.values().cuda());
    let (capacity, batch, grid) = (call.capacity as u64, call.batch as u32, Geometry::grid(call.batch, geometry.heads));
    match (call.qkv, call.k_cache, call.v_cache, call.o) {
        (FloatSlice::F32(qkv), FloatSlice::F32(k), FloatSlice::F32(v), FloatSliceMut::F32(o)) => {
            let (qkv, k_cache, v_cache, o) = (qkv.cuda(), k.cuda(), v.cuda(), o.cuda());
            let from_keys_to_values =
                v_cache.bits().wrapping_sub(k_cache.bits()).cast_signed() / size_of::<f32>() as i64;
            let from_keys_to_values = from_keys_to_values.cast_unsigned();
            let args = DecodeArgs { o, lengths, qkv, k_cache, v_cache, from_keys_to_values, capacity, batch, geometry };
            cuda.launch(&F32.decode, grid, args)
        }
        (FloatSlice::Bf16(qkv), FloatSlice::Bf16(k), FloatSlice::Bf16(v), FloatSliceMut::Bf16(o)) => {
            let (qkv, k_cache, v_cache, o) = (qkv.cuda(), k.cuda(), v.cuda(), o.cuda());
            let from_keys_to_values =
                v_cache.bits().wrapping_sub(k_cache.bits()).cast_signed() / size_of::<bf16>() as i64;
            let from_keys_to_values = from_keys_to_values.cast_unsigned();
            let args = DecodeArgs { o, lengths, qkv, k_cache, v_cache, from_keys_to_values, capacity, batch, geometry };
            cuda.launch(&BF16.decode, grid, args)
        }
        _ => unreachable!("`run` refuses two formats"),
    }
}
