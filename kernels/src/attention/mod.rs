//! Causal attention over prefix trees, with grouped-query heads, and optionally with a sliding window and a soft-cap. Never holds
//! a full score matrix.
//!
//! Rows are cut into [`Segment`]s. A row sees all rows of its segment's prefix, and the rows of its own segment up to itself. A
//! prompt is a segment without prefix, and each answer of a pair is a segment whose prefix is the prompt. Rows that no segment
//! covers get zeros. The backward pass is derived in docs/derivations/attention.md.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod layout;
mod reference;
mod segments;
#[cfg(test)]
mod tests;

pub use layout::Layout;

use crate::device::Cost;
use crate::error::{check_dtype, check_len, check_shape};
use crate::{Device, FloatSlice, FloatSliceMut, IndexSlice, KernelError, Result, Slice, SliceMut};
use std::ops::Range;

/// Rows that attend to a prefix and, causally, to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of this segment, in the order of their positions.
    pub rows: Range<usize>,
    /// The rows that come before this segment in position: all its rows see them. It may be empty. Otherwise it is the rows of
    /// another segment, which has no prefix.
    pub prefix: Range<usize>,
}

/// Heads and masks of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key-value heads, a divisor of `num_attention_heads`. Query head `h` reads key-value head `h / group`, where
    /// `group` is `num_attention_heads / num_key_value_heads`.
    pub num_key_value_heads: usize,
    /// Columns of one query, key or value.
    pub head_dim: usize,
    /// Multiplies `q·k` before soft-cap and softmax.
    pub scale: f32,
    /// If `Some(cap)`, the scaled score `s` becomes `cap * tanh(s / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// A key is visible if it is fewer than this many positions before the query (the query's own key is 0 positions before it).
    /// With `None` there is no limit.
    pub sliding_window: Option<usize>,
}

/// `o = softmax(mask(softcap(scale * q kᵀ))) v`
pub struct Forward<'a> {
    /// Heads and masks, the same for every row.
    pub geometry: Geometry,
    /// The number of rows, and their segments.
    pub layout: &'a Layout,
    /// `[rows, (num_attention_heads + 2 * num_key_value_heads) * head_dim]`: queries, keys and values side by side
    pub qkv: FloatSlice<'a>,
    /// `[rows, num_attention_heads * head_dim]`, in the format of `qkv`
    pub o: FloatSliceMut<'a>,
    /// `[rows, num_attention_heads]`: log-sum-exp of a row's scores, kept for the backward pass
    pub lse: SliceMut<'a, f32>,
}

/// Gradients of [`Forward`].
pub struct Backward<'a> {
    /// As in [`Forward`].
    pub geometry: Geometry,
    /// The layout of the forward call, or a layout of only the first rows of that call.
    pub layout: &'a Layout,
    /// As in [`Forward`].
    pub qkv: FloatSlice<'a>,
    /// As [`Forward`] wrote it.
    pub o: FloatSlice<'a>,
    /// As [`Forward`] wrote it.
    pub lse: Slice<'a, f32>,
    /// Gradient of `o`, in its shape and format.
    pub d_o: FloatSlice<'a>,
    /// Gradient of `qkv`, in its shape and format. It is set, not added to.
    pub dqkv: FloatSliceMut<'a>,
}

/// Attention of one new row of each sequence to the sequence's cache, for generation.
pub struct Decode<'a> {
    /// Number of sequences, each with one new row.
    pub batch: usize,
    /// As in [`Forward`].
    pub geometry: Geometry,
    /// Rows that each sequence's part of the cache has room for.
    pub capacity: usize,
    /// `[batch]`: rows of each sequence in the cache, with the new row, whose position is `lengths[b] - 1`.
    pub lengths: IndexSlice<'a>,
    /// As in [`Forward`], with `batch` rows. Only the queries are used: the keys and values of these rows are in the cache already.
    pub qkv: FloatSlice<'a>,
    /// `[batch, capacity, num_key_value_heads * head_dim]`, in the format of `qkv`
    pub k_cache: FloatSlice<'a>,
    /// In the shape and format of `k_cache`.
    pub v_cache: FloatSlice<'a>,
    /// `[batch, num_attention_heads * head_dim]`, in the format of `qkv`
    pub o: FloatSliceMut<'a>,
}

/// Products of the forward pass for each pair of a query and a key: `q·k` and `p·v`.
const FORWARD_PRODUCTS: f64 = 2.0;
/// Products of the backward pass for each pair: `q·k` again, `d_o·v`, `dq`, `dk`, `dv`.
const BACKWARD_PRODUCTS: f64 = 5.0;

/// Counts the multiplications and additions of `products` products of heads for each pair of a query and a key that it sees.
fn operations(products: f64, geometry: &Geometry, segments: &[Segment]) -> f64 {
    let pairs: usize = segments.iter().map(|segment| segment.pairs(geometry)).sum();
    products * 2.0 * (geometry.head_dim * geometry.num_attention_heads) as f64 * pairs as f64
}

impl Forward<'_> {
    /// Computes `o` and `lse`.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Size`] for a geometry
    /// with a size of 0 or key-value heads that do not divide the query heads, [`crate::KernelError::Format`] for slices of two
    /// formats.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "attention.forward";
        self.geometry.check(KERNEL)?;
        let rows = self.layout.rows();
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        check_shape(KERNEL, "qkv", self.qkv.len(), [rows, heads + 2 * kv_heads, head_dim])?;
        check_shape(KERNEL, "o", self.o.len(), [rows, heads, head_dim])?;
        check_dtype(KERNEL, "o", self.o.dtype(), self.qkv.dtype())?;
        check_shape(KERNEL, "lse", self.lse.len(), [rows, heads])?;
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::forward(device, cpu, self),
            Device::Cuda(cuda) => cuda::forward(cuda, self),
            Device::Count(count) => {
                let on_cpu = |cpu| cpu::forward_scratch(cpu, self.qkv.dtype(), &self.geometry, self.layout);
                let scratch = count.cpu().map_or(0, on_cpu);
                let operations = operations(FORWARD_PRODUCTS, &self.geometry, self.layout.segments());
                count.call(KERNEL, Cost { operations, scratch, ..Cost::default() })
            }
        }
    }
}

impl Backward<'_> {
    /// Computes `dqkv`.
    ///
    /// # Errors
    /// The errors of [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "attention.backward";
        self.geometry.check(KERNEL)?;
        let rows = self.layout.rows();
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        let all_heads = heads + 2 * kv_heads;
        let slices = [("o", self.o, heads), ("d_o", self.d_o, heads), ("qkv", self.qkv, all_heads)];
        for (argument, slice, heads) in slices.into_iter().chain([("dqkv", self.dqkv.as_slice(), all_heads)]) {
            check_shape(KERNEL, argument, slice.len(), [rows, heads, head_dim])?;
            check_dtype(KERNEL, argument, slice.dtype(), self.qkv.dtype())?;
        }
        check_shape(KERNEL, "lse", self.lse.len(), [rows, heads])?;
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::backward(device, cpu, self),
            Device::Cuda(cuda) => cuda::backward(cuda, self),
            Device::Count(count) => {
                let on_cpu = |cpu| cpu::backward_scratch(cpu, self.qkv.dtype(), &self.geometry, self.layout);
                let scratch = count.cpu().map_or(0, on_cpu);
                let operations = operations(BACKWARD_PRODUCTS, &self.geometry, self.layout.segments());
                count.call(KERNEL, Cost { operations, scratch, ..Cost::default() })
            }
        }
    }
}

impl Decode<'_> {
    /// Computes `o`.
    ///
    /// # Errors
    /// The errors of [`Forward::run`], and [`crate::KernelError::Size`] for a length of 0 or above the capacity.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "attention.decode";
        self.geometry.check(KERNEL)?;
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = self.geometry;
        check_len(KERNEL, "lengths", self.lengths.len(), self.batch)?;
        if let Some((_, got)) = self.lengths.first_outside(1..self.capacity.saturating_add(1))? {
            let (got, want) = (got as usize, "from 1 to the capacity");
            return Err(KernelError::Size { kernel: KERNEL, argument: "lengths", got, want });
        }
        check_shape(KERNEL, "qkv", self.qkv.len(), [self.batch, heads + 2 * kv_heads, head_dim])?;
        let cached = [self.batch, self.capacity, kv_heads, head_dim];
        let outputs = [self.batch, heads, head_dim, 1];
        let slices = [("k_cache", self.k_cache, cached), ("v_cache", self.v_cache, cached)];
        for (argument, slice, sizes) in slices.into_iter().chain([("o", self.o.as_slice(), outputs)]) {
            check_dtype(KERNEL, argument, slice.dtype(), self.qkv.dtype())?;
            check_shape(KERNEL, argument, slice.len(), sizes)?;
        }
        let _timed = device.timed(KERNEL);
        match device {
            Device::Cpu(cpu) => cpu::decode(device, cpu, self),
            Device::Cuda(cuda) => cuda::decode(cuda, self),
            // plans do not count generation
            Device::Count(_) => Ok(()),
        }
    }
}
