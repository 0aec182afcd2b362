//! Keys and values in blocks of positions, copied into the layouts that the products read.
//!
//! Blocks are counted by position, not by row. A segment's sequence is its prefix and then its own rows, and block `j` holds the
//! `BLOCK` positions of this sequence from `BLOCK * j` on. So a branch has the same blocks as the same sequence without a shared
//! prefix, and a query's output has the same bits. A branch reads the prompt's own blocks as far as the prompt fills them. The
//! block in which the prompt ends and the branch begins is a copy that the branch owns.

use crate::arena::taken;
use crate::attention::{Geometry, Segment};
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::Disjoint;
use crate::{Buffer, Device, Result};
use std::collections::HashMap;
use std::ops::Range;

/// Keys of a block. A transposed key block and a value block at `head_dim` 64 are 32 KiB together and stay in the first-level
/// cache while the query rows pass.
pub(super) const BLOCK: usize = 64;

/// Columns are padded to a multiple of this many floats: the largest number of lanes of any instruction set.
pub(super) const PAD: usize = 16;

/// Query rows that are multiplied by a block at once: their scores, queries and outputs fit in cache beside a block. A multiple
/// of the product's 6 rows.
pub(super) const ROWS: usize = 24;

/// The columns of a block that one query sees. It sees none if `lo >= hi`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    pub lo: usize,
    pub hi: usize,
}

impl Span {
    /// Returns the columns that a query at `position` sees of the block that begins at position `begin`.
    pub(super) fn new(geometry: &Geometry, position: usize, begin: usize) -> Span {
        let lo = geometry.first_visible(position).saturating_sub(begin).min(BLOCK);
        Span { lo, hi: (position + 1).saturating_sub(begin).min(BLOCK) }
    }
}

/// The columns of a block that some queries see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// The first column, rounded down to a multiple of [`PAD`].
    pub first: usize,
    /// The end of the columns, rounded up to a multiple of [`PAD`].
    pub end: usize,
    /// Whether every query sees the whole block.
    pub full: bool,
}

impl Reach {
    /// Returns the columns that queries at `positions` (not empty) see of the block that begins at `begin`. `None` if they see
    /// none.
    pub(super) fn new(geometry: &Geometry, positions: Range<usize>, begin: usize) -> Option<Reach> {
        let first = Span::new(geometry, positions.start, begin);
        let last = Span::new(geometry, positions.end - 1, begin);
        if last.hi == 0 || first.lo == BLOCK {
            return None;
        }
        let full = first.hi == BLOCK && last.lo == 0;
        Some(Reach { first: first.lo / PAD * PAD, end: last.hi.next_multiple_of(PAD), full })
    }

    /// The number of columns.
    pub(super) fn len(&self) -> usize {
        self.end - self.first
    }
}

/// Which packed blocks hold the positions of each segment.
#[derive(Debug)]
pub(super) struct Blocks {
    segments: Vec<Own>,
    /// The segment of each packed block, and the block's number in the segment's sequence.
    owners: Vec<(usize, usize)>,
}

/// The packed blocks of one segment.
#[derive(Debug)]
struct Own {
    /// The segment whose rows are the prefix. `None` if there is no prefix.
    root: Option<usize>,
    /// The number of its first own block in the segment's sequence.
    first: usize,
    /// The index of that block among all packed blocks.
    at: usize,
}

impl Blocks {
    /// `segments` must have passed `segments::check`.
    pub(super) fn new(segments: &[Segment]) -> Blocks {
        let roots: HashMap<&Range<usize>, usize> = segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| segment.prefix.is_empty())
            .map(|(index, segment)| (&segment.rows, index))
            .collect();
        let mut blocks = Blocks { segments: Vec::with_capacity(segments.len()), owners: Vec::new() };
        for (index, segment) in segments.iter().enumerate() {
            let root = if segment.prefix.is_empty() { None } else { Some(roots[&segment.prefix]) };
            let first = segment.prefix.len() / BLOCK;
            blocks.segments.push(Own { root, first, at: blocks.owners.len() });
            if !segment.rows.is_empty() {
                blocks.owners.extend((first..segment.positions().div_ceil(BLOCK)).map(|block| (index, block)));
            }
        }
        blocks
    }

    /// The number of packed blocks.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Returns the index of the packed block that is number `block` of the sequence that ends with `segment`.
    pub(super) fn index(&self, segment: usize, block: usize) -> usize {
        let own = &self.segments[segment];
        match (block.checked_sub(own.first), own.root) {
            (Some(after), _) => own.at + after,
            (None, Some(root)) => self.segments[root].at + block,
            (None, None) => unreachable!("a segment without prefix owns its blocks from 0 on"),
        }
    }

    /// The segment whose rows are this segment's prefix. `None` if it has no prefix.
    pub(super) fn root(&self, segment: usize) -> Option<usize> {
        self.segments[segment].root
    }

    /// Returns the packed blocks that hold positions of the segment's own rows.
    pub(super) fn own(&self, segment: usize) -> Range<usize> {
        let end = self.segments.get(segment + 1).map_or(self.owners.len(), |next| next.at);
        self.segments[segment].at..end
    }

    /// Returns the segment of a packed block, and the block's number in the segment's sequence.
    pub(super) fn owner(&self, index: usize) -> (usize, usize) {
        self.owners[index]
    }
}

/// How a block is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `[head_dim, BLOCK]`, for products whose columns are keys
    Transposed,
    /// `[BLOCK, head_dim padded]`, for products whose columns are the head's
    Rows,
}

impl Form {
    /// Floats of a block of one head in this form.
    fn len(self, geometry: &Geometry) -> usize {
        BLOCK
            * match self {
                Form::Transposed => geometry.head_dim,
                Form::Rows => geometry.head_dim.next_multiple_of(PAD),
            }
    }
}

/// Bytes of [`KvParts`] with parts in these forms.
pub(super) fn packed_bytes<const PARTS: usize>(geometry: &Geometry, blocks: &Blocks, forms: [Form; PARTS]) -> usize {
    let floats: usize = forms.iter().map(|form| form.len(geometry)).sum();
    taken(blocks.len() * geometry.num_key_value_heads * floats * size_of::<f32>())
}

/// Blocks of keys and values, for each key-value head. Positions after the last row of a segment are zeros.
pub(super) struct KvParts<const PARTS: usize> {
    data: Buffer<f32>,
    blocks: usize,
    /// Where each part begins and ends in a block, in floats.
    parts: [Range<usize>; PARTS],
}

/// Whether a part of a block is made of keys or of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Keys,
    Values,
}

impl Source {
    /// Returns the first column of a head's keys or values in a row of `qkv`.
    pub(super) fn first(self, geometry: &Geometry, kv_head: usize) -> usize {
        match self {
            Source::Keys => geometry.key(kv_head),
            Source::Values => geometry.value(kv_head),
        }
    }
}

/// Packs blocks of `qkv`. Each of `parts` holds keys or values, in one form.
pub(super) fn pack<const PARTS: usize>(
    device: &Device,
    cpu: &Cpu,
    geometry: &Geometry,
    segments: &[Segment],
    blocks: &Blocks,
    qkv: &[f32],
    parts: [(Source, Form); PARTS],
) -> Result<KvParts<PARTS>> {
    let d = geometry.head_dim;
    let mut size = 0;
    let ranges = parts.map(|(_, form)| {
        let begin = size;
        size += form.len(geometry);
        begin..size
    });
    let kv_heads = geometry.num_key_value_heads;
    let mut data = device.alloc("attention.packed", blocks.len() * kv_heads * size)?;
    let all = Disjoint::new(data.view_mut().cpu());
    cpu.for_each_task("attention.packed", blocks.len() * kv_heads, 0, |task, _| {
        let (kv_head, index) = (task / blocks.len(), task % blocks.len());
        let (segment, block) = blocks.owner(index);
        let segment = &segments[segment];
        let begin = block * BLOCK;
        let keys = BLOCK.min(segment.positions() - begin);
        // SAFETY: `task` is handed out once, so nobody else borrows these `size` floats.
        let target = unsafe { all.slice(task * size..(task + 1) * size) };
        for ((source, form), range) in parts.iter().zip(&ranges) {
            let target = &mut target[range.clone()];
            if keys * d < target.len() {
                target.fill(0.0);
            }
            let first = source.first(geometry, kv_head);
            let row_at = |key: usize| segment.row_at(begin + key) * geometry.qkv_cols() + first;
            match form {
                Form::Transposed => transpose(target, qkv, keys, row_at, d),
                Form::Rows => {
                    for (key, target) in target.chunks_exact_mut(d.next_multiple_of(PAD)).take(keys).enumerate() {
                        target[..d].copy_from_slice(&qkv[row_at(key)..][..d]);
                    }
                }
            }
        }
    })?;
    Ok(KvParts { data, blocks: blocks.len(), parts: ranges })
}

/// Writes `keys` rows of `d` floats as `[d, BLOCK]`. Copies as many keys at a time as fill a cache line, so that each line of the
/// target is written once.
fn transpose(target: &mut [f32], source: &[f32], keys: usize, row_at: impl Fn(usize) -> usize, d: usize) {
    const LINE: usize = 16;
    for first in (0..keys).step_by(LINE) {
        let n = LINE.min(keys - first);
        let rows: [&[f32]; LINE] = std::array::from_fn(|i| &source[row_at(first + i.min(n - 1))..][..d]);
        for (c, column) in target.chunks_exact_mut(BLOCK).enumerate() {
            for (x, row) in column[first..first + n].iter_mut().zip(rows) {
                *x = row[c];
            }
        }
    }
}

impl<const PARTS: usize> KvParts<PARTS> {
    /// Returns one part of the packed block `index`.
    pub(super) fn part(&self, part: usize, kv_head: usize, index: usize) -> &[f32] {
        let size = self.parts[PARTS - 1].end;
        &self.data.view().cpu()[(kv_head * self.blocks + index) * size..][self.parts[part].clone()]
    }
}
