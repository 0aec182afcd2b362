//! Causal attention over prefix trees, with grouped-query heads, a sliding window and an optional soft-cap, never holding a
//! full score matrix.
//!
//! Rows are cut into [`Segment`]s. A row of a segment sees all rows of the segment's prefix and the rows of its own segment up
//! to itself: a prompt is a segment without prefix, each answer of a pair is a segment whose prefix is the prompt. Rows that no
//! segment covers get zeros.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice, SliceMut};
use std::ops::Range;

/// Rows that attend to a prefix and, causally, to themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of this segment, in the order of their positions.
    pub rows: Range<usize>,
    /// Rows that all of them see (and that come before them in position); may be empty. It is some other segment's rows,
    /// and that segment has no prefix of its own.
    pub prefix: Range<usize>,
}

/// Heads and masks of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`; query head `h` reads key-value head `h / (heads / kv_heads)`.
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Multiplies `q·k` before soft-cap and softmax.
    pub scale: f32,
    /// `s -> cap * tanh(s / cap)` on the scaled score (Gemma 2).
    pub softcap: Option<f32>,
    /// A key is visible if it is fewer than this many positions before the query (the query itself is position 0 before).
    pub sliding_window: Option<usize>,
}

/// `o = softmax(mask(softcap(scale * q kᵀ))) v`
pub struct Forward<'a> {
    pub rows: usize,
    pub geometry: Geometry,
    pub segments: &'a [Segment],
    /// `[rows, num_attention_heads * head_dim]`
    pub q: Slice<'a, f32>,
    /// `[rows, num_key_value_heads * head_dim]`
    pub k: Slice<'a, f32>,
    /// `[rows, num_key_value_heads * head_dim]`
    pub v: Slice<'a, f32>,
    /// `[rows, num_attention_heads * head_dim]`
    pub o: SliceMut<'a, f32>,
    /// `[rows, num_attention_heads]`: log-sum-exp of a row's scores, kept for the backward pass
    pub lse: SliceMut<'a, f32>,
}

/// Gradients of [`Forward`]. `rows` and `segments` may be those of a prefix of the forward call's rows.
pub struct Backward<'a> {
    pub rows: usize,
    pub geometry: Geometry,
    pub segments: &'a [Segment],
    /// As in [`Forward`].
    pub q: Slice<'a, f32>,
    pub k: Slice<'a, f32>,
    pub v: Slice<'a, f32>,
    pub o: Slice<'a, f32>,
    pub lse: Slice<'a, f32>,
    /// `[rows, num_attention_heads * head_dim]`
    pub d_o: Slice<'a, f32>,
    /// Like `q`; set, not added to.
    pub dq: SliceMut<'a, f32>,
    /// Like `k`; set, not added to.
    pub dk: SliceMut<'a, f32>,
    /// Like `v`; set, not added to.
    pub dv: SliceMut<'a, f32>,
}

/// One new row per sequence against its cache (generation).
pub struct Decode<'a> {
    pub batch: usize,
    pub geometry: Geometry,
    /// Rows that each sequence's part of the cache has room for.
    pub capacity: usize,
    /// Rows in use of each sequence, the new one included: its position is `lengths[b] - 1`.
    pub lengths: &'a [usize],
    /// `[batch, num_attention_heads * head_dim]`
    pub q: Slice<'a, f32>,
    /// `[batch, capacity, num_key_value_heads * head_dim]`
    pub k_cache: Slice<'a, f32>,
    /// As `k_cache`.
    pub v_cache: Slice<'a, f32>,
    /// `[batch, num_attention_heads * head_dim]`
    pub o: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Size`] for a
    /// geometry that does not divide or a segment outside the rows.
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}

impl Decode<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        todo!("{device:?}")
    }
}
