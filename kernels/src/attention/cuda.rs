//! CUDA version: a simple one, with a warp for each row and head.

use super::{Backward, Decode, Forward, Segment};
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::error::check_size;
use crate::formats::Float;
use crate::{Buffer, Device, FloatDtype, Result};
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
    match call.qkv.dtype() {
        FloatDtype::F32 => F32.forward(cuda, call),
        FloatDtype::Bf16 => BF16.forward(cuda, call),
    }
}

pub(super) fn backward(cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    check_head_dim("attention.backward", call.geometry)?;
    match call.qkv.dtype() {
        FloatDtype::F32 => F32.backward(cuda, call),
        FloatDtype::Bf16 => BF16.backward(cuda, call),
    }
}

pub(super) fn decode(cuda: &Cuda, call: Decode<'_>) -> Result<()> {
    check_head_dim("attention.decode", call.geometry)?;
    match call.qkv.dtype() {
        FloatDtype::F32 => F32.decode(cuda, call),
        FloatDtype::Bf16 => BF16.decode(cuda, call),
    }
}

impl<T: Float> Kernels<T> {
    fn forward(&self, cuda: &Cuda, call: Forward<'_>) -> Result<()> {
        let Forward { layout, geometry, qkv, o, lse } = call;
        let (tree, geometry) = (layout.cuda().tree(), Geometry::new(geometry, layout.rows()));
        let args = ForwardArgs { o: o.cuda(), lse: lse.cuda(), qkv: qkv.cuda(), tree, geometry };
        cuda.launch(&self.forward, Geometry::grid(layout.rows(), geometry.heads), args)
    }

    fn backward(&self, cuda: &Cuda, call: Backward<'_>) -> Result<()> {
        let Backward { layout, geometry, qkv, o, lse, d_o, dqkv } = call;
        let (tree, geometry) = (layout.cuda().tree(), Geometry::new(geometry, layout.rows()));
        let (o, lse, d_o) = (o.cuda(), lse.cuda(), d_o.cuda());
        let args = BackwardArgs { dqkv: dqkv.cuda(), qkv: qkv.cuda(), o, lse, d_o, tree, geometry };
        cuda.launch(&self.queries, Geometry::grid(layout.rows(), geometry.heads), args)?;
        cuda.launch(&self.keys, Geometry::grid(layout.rows(), geometry.kv_heads), args)
    }

    fn decode(&self, cuda: &Cuda, call: Decode<'_>) -> Result<()> {
        let Decode { batch, capacity, geometry, lengths, qkv, k_cache, v_cache, o } = call;
        let geometry = Geometry::new(geometry, capacity);
        let args = DecodeArgs {
            o: o.cuda(),
            lengths: lengths.values().cuda(),
            qkv: qkv.cuda(),
            k_cache: k_cache.cuda(),
            v_cache: v_cache.cuda(),
            capacity: capacity as u64,
            batch: batch as u32,
            geometry,
        };
        cuda.launch(&self.decode, Geometry::grid(batch, geometry.heads), args)
    }
}
