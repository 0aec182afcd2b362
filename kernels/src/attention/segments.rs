//! Which rows see which: positions, masks, and the checks that the kernels rely on.

use super::{Geometry, Segment};
use crate::{KernelError, Result};
use std::ops::Range;

impl Segment {
    /// The number of positions of the sequence that ends with this segment: those of its prefix, then those of its rows.
    pub fn positions(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }

    /// The number of pairs of a query and a key that the query sees. The queries are the rows of this segment.
    pub fn pairs(&self, geometry: &Geometry) -> usize {
        let up_to = |positions: usize| {
            let short = geometry.sliding_window.map_or(positions, |window| positions.min(window));
            short * (short + 1) / 2 + (positions - short) * short
        };
        up_to(self.positions()) - up_to(self.prefix.len())
    }

    /// The row that holds `position` of the sequence that ends with this segment.
    #[inline]
    pub fn row_at(&self, position: usize) -> usize {
        match position.checked_sub(self.prefix.len()) {
            Some(own) => self.rows.start + own,
            None => self.prefix.start + position,
        }
    }
}

impl Geometry {
    /// How many query heads read each key-value head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// The first position that a query at `position` sees. The last is the query's own.
    #[inline]
    pub fn first_visible(&self, position: usize) -> usize {
        self.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Columns of a row of `qkv`, which holds queries, keys and values.
    pub(super) fn qkv_cols(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// The first column of a query head in a row of `qkv`.
    #[inline]
    pub(super) fn query(&self, head: usize) -> usize {
        head * self.head_dim
    }

    /// The first column of a key head in a row of `qkv`.
    #[inline]
    pub(super) fn key(&self, kv_head: usize) -> usize {
        (self.num_attention_heads + kv_head) * self.head_dim
    }

    /// The first column of a value head in a row of `qkv`.
    #[inline]
    pub(super) fn value(&self, kv_head: usize) -> usize {
        (self.num_attention_heads + self.num_key_value_heads + kv_head) * self.head_dim
    }

    pub(super) fn check(&self, kernel: &'static str) -> Result<()> {
        let size = |argument, got, want| Err(KernelError::Size { kernel, argument, got, want });
        if self.num_attention_heads == 0 {
            return size("num_attention_heads", 0, "at least 1");
        }
        if self.num_key_value_heads == 0 || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return size("num_key_value_heads", self.num_key_value_heads, "a divisor of num_attention_heads");
        }
        if self.head_dim == 0 {
            return size("head_dim", 0, "at least 1");
        }
        if self.sliding_window == Some(0) {
            return size("sliding_window", 0, "at least 1: a row sees itself");
        }
        Ok(())
    }
}

/// Refuses segments outside the rows, segments that share rows, and prefixes that are not the rows of a segment without prefix.
///
/// The kernels rely on this check for soundness: different tasks write the rows of different segments at the same time.
pub(super) fn check(kernel: &'static str, rows: usize, segments: &[Segment]) -> Result<()> {
    let size = |argument, got, want| Err(KernelError::Size { kernel, argument, got, want });
    let mut taken: Vec<&Range<usize>> = Vec::with_capacity(segments.len());
    for segment in segments {
        for (argument, range) in [("segments.rows", &segment.rows), ("segments.prefix", &segment.prefix)] {
            if range.start > range.end || range.end > rows {
                return size(argument, range.end, "a range inside the rows");
            }
        }
        if !segment.rows.is_empty() {
            taken.push(&segment.rows);
        }
    }
    taken.sort_by_key(|range| range.start);
    if let Some(pair) = taken.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return size("segments.rows", pair[1].start, "a start at or after the end of the segment before");
    }
    let mut roots: Vec<(usize, usize)> =
        segments.iter().filter(|s| s.prefix.is_empty()).map(|s| (s.rows.start, s.rows.end)).collect();
    roots.sort_unstable();
    for segment in segments.iter().filter(|s| !s.prefix.is_empty()) {
        if roots.binary_search(&(segment.prefix.start, segment.prefix.end)).is_err() {
            return size("segments.prefix", segment.prefix.start, "the rows of a segment without prefix");
        }
    }
    Ok(())
}
