//! Backward: one task per tree (a prompt and its branches) and query head. It recomputes the probabilities block by block from
//! the log-sum-exp, and computes all three gradients from them.
//!
//! Within a task the order is fixed: first the prompt's rows, then the branches in the order of the segments. In each of these,
//! blocks of keys are the outer loop and query rows the inner one, both by position. So `dq` of a row adds its keys in order of
//! position, and `dk` and `dv` of a key add their queries in order of position, the prompt's own first. Each head of a group has
//! its own sums, which are added at the end, head by head.

use super::product::Product;
use super::softmax::{Scaling, ScoreGradients};
use crate::arena::taken;
use crate::attention::cpu::blocks::{BLOCK, Blocks, Form, KvParts, PAD, ROWS, Reach, Source, Span, pack, packed_bytes};
use crate::attention::cpu::lists::Lists;
use crate::attention::{Geometry, Layout, Segment};
use crate::cpu::Cpu;
use crate::cpu::Isa;
use crate::cpu::threads::tasks::{Disjoint, parts};
use crate::cpu::vectors::convert::Convert;
use crate::cpu::vectors::{Loaded, Simd, Stored, VectorTask};
use crate::{Device, Result};
use std::ops::Range;

/// Inputs and outputs of the forward pass, and the gradient of its output.
pub(in crate::attention::cpu) struct Known<'a, T> {
    pub qkv: &'a [T],
    pub o: &'a [T],
    pub lse: &'a [f32],
    pub d_o: &'a [T],
}

/// Computes the gradients that `Backward` defines, in f32.
pub(in crate::attention::cpu) fn backward(
    device: &Device,
    cpu: &Cpu,
    (geometry, layout): (Geometry, &Layout),
    known: Known<'_, f32>,
    dqkv: &mut [f32],
) -> Result<()> {
    let Geometry { num_attention_heads: heads, head_dim: d, .. } = geometry;
    let Known { qkv, o, lse, d_o } = known;
    let cols = geometry.qkv_cols();
    let (segments, Lists { uncovered, blocks, trees }) = (layout.segments(), layout.cpu());
    for gap in uncovered {
        dqkv[gap.start * cols..gap.end * cols].fill(0.0);
    }
    let parts = [(Source::Keys, Form::Transposed), (Source::Values, Form::Transposed), (Source::Keys, Form::Rows)];
    let packed = pack(device, cpu, &geometry, segments, blocks, qkv, parts)?;

    let mut delta = device.alloc("attention.delta", layout.rows() * heads)?;
    deltas(cpu, d, o, d_o, delta.view_mut().cpu())?;
    // [head, block, BLOCK, padded]: the sums of dk, and those of dv
    let block_len = BLOCK * d.next_multiple_of(PAD);
    let mut dk_heads = device.alloc("attention.dk_heads", heads * blocks.len() * block_len)?;
    let mut dv_heads = device.alloc("attention.dv_heads", heads * blocks.len() * block_len)?;
    {
        let largest = trees.iter().map(|tree| tree.rows).max().unwrap_or(0);
        let (dqkv, delta) = (Disjoint::new(&mut *dqkv), delta.view().cpu());
        let (dk_heads, dv_heads) = (Disjoint::new(dk_heads.view_mut().cpu()), Disjoint::new(dv_heads.view_mut().cpu()));
        let len = scratch_len(largest, d);
        cpu.for_each_task("attention.scratch", trees.len() * heads, len, |task, scratch| {
            let (tree, head) = (&trees[task / heads], task % heads);
            let mut scratch = Scratch::new(scratch, tree.rows, d);
            let mut local = 0;
            for &index in &tree.segments {
                for row in segments[index].rows.clone() {
                    let at = row * heads + head;
                    let query = row * cols + geometry.query(head);
                    scratch.load(local, &qkv[query..query + d], &d_o[at * d..(at + 1) * d]);
                    scratch.lse[local] = lse[at];
                    scratch.delta[local] = delta[at];
                    local += 1;
                }
            }
            let work = Work { isa: cpu.isa(), geometry: &geometry, kv_head: head / geometry.group(), packed: &packed };
            let mut sums = Sums::new(&dk_heads, &dv_heads, head * blocks.len(), block_len);
            let mut local = 0;
            for &index in &tree.segments {
                let segment = &segments[index];
                sums.walk(&geometry, blocks, index, segment, |sums, pair| {
                    let local = local + pair.queries.start - segment.prefix.len();
                    work.pair(&mut scratch, sums, pair, local);
                });
                local += segment.rows.len();
            }
            let rows = tree.segments.iter().flat_map(|&index| segments[index].rows.clone());
            for (row, sums) in rows.zip(scratch.dq.chunks_exact(d.next_multiple_of(PAD))) {
                let at = row * cols + geometry.query(head);
                // SAFETY: trees share no rows, and a head of a tree is one task.
                let target = unsafe { dqkv.slice(at..at + d) };
                for (dq, &sum) in target.iter_mut().zip(sums) {
                    *dq = geometry.scale * sum;
                }
            }
        })?;
    }

    let sums = [dk_heads.view().cpu(), dv_heads.view().cpu()];
    add_heads(cpu, (&geometry, segments, blocks), sums, block_len, dqkv)
}

/// Bytes that [`backward`] needs while it runs.
pub(in crate::attention::cpu) fn scratch(cpu: &Cpu, geometry: &Geometry, layout: &Layout) -> usize {
    let Geometry { num_attention_heads: heads, head_dim: d, .. } = *geometry;
    let Lists { blocks, trees, .. } = layout.cpu();
    let packed = packed_bytes(geometry, blocks, [Form::Transposed, Form::Transposed, Form::Rows]);
    let largest = trees.iter().map(|tree| tree.rows).max().unwrap_or(0);
    packed
        + sums_bytes(layout, heads, BLOCK * d.next_multiple_of(PAD))
        + tasks_bytes(cpu, geometry, layout, scratch_len(largest, d))
}

/// Bytes of `delta`, and of the sums of `dk` and `dv` of each head, whose blocks have `block_len` floats.
pub(in crate::attention::cpu) fn sums_bytes(layout: &Layout, heads: usize, block_len: usize) -> usize {
    let floats = [layout.rows() * heads, heads * layout.cpu().blocks.len() * block_len];
    let [delta, sums] = floats.map(|floats| taken(floats * size_of::<f32>()));
    delta + 2 * sums
}

/// Returns the larger of two numbers: the bytes of the trees' tasks, with `len` floats each, and the bytes of the tasks of
/// [`add_heads`], which run afterwards.
pub(in crate::attention::cpu) fn tasks_bytes(cpu: &Cpu, geometry: &Geometry, layout: &Layout, len: usize) -> usize {
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = *geometry;
    let Lists { blocks, trees, .. } = layout.cpu();
    cpu.bytes_of_tasks(trees.len() * heads, len).max(cpu.bytes_of_tasks(blocks.len() * kv_heads, head_dim))
}

/// Writes `dk` and `dv`. Each block `[BLOCK, padded]` of a key-value head is the sum of its group's heads, added head by head.
pub(in crate::attention::cpu) fn add_heads<T: Stored>(
    cpu: &Cpu,
    (geometry, segments, blocks): (&Geometry, &[Segment], &Blocks),
    [dk_heads, dv_heads]: [&[f32]; 2],
    block_len: usize,
    dqkv: &mut [T],
) -> Result<()> {
    let Geometry { num_key_value_heads: kv_heads, head_dim, .. } = *geometry;
    let (dqkv, padded) = (Disjoint::new(dqkv), block_len / BLOCK);
    cpu.for_each_task("attention.scratch", blocks.len() * kv_heads, head_dim, |task, sum| {
        let (index, kv_head) = (task / kv_heads, task % kv_heads);
        let (segment, block) = blocks.owner(index);
        let segment = &segments[segment];
        let own = (block * BLOCK).max(segment.prefix.len())..((block + 1) * BLOCK).min(segment.positions());
        for position in own {
            let row = segment.row_at(position) * geometry.qkv_cols();
            for (first, heads, scale) in
                [(geometry.key(kv_head), dk_heads, geometry.scale), (geometry.value(kv_head), dv_heads, 1.0)]
            {
                sum.fill(0.0);
                for query_head in kv_head * geometry.group()..(kv_head + 1) * geometry.group() {
                    let from = (query_head * blocks.len() + index) * block_len + position % BLOCK * padded;
                    sum.iter_mut().zip(&heads[from..from + head_dim]).for_each(|(sum, x)| *sum += x);
                }
                sum.iter_mut().for_each(|sum| *sum *= scale);
                // SAFETY: segments share no rows, so each position and key-value head belongs to one task.
                let to = unsafe { dqkv.slice(row + first..row + first + head_dim) };
                cpu.isa().dispatch(Convert { from: sum, to });
            }
        }
    })
}

/// Floats of scratch that a thread needs for trees of at most `rows` rows.
fn scratch_len(rows: usize, head_dim: usize) -> usize {
    Scratch::lens(rows, head_dim).iter().sum()
}

/// A task's scratch: the rows of a tree for one head, next to each other, and two blocks of scores.
struct Scratch<'a> {
    /// Floats from row to row of `q`, `d_o` and `dq`.
    stride: usize,
    /// `[rows, stride]`
    q: &'a mut [f32],
    /// `[rows, stride]`
    d_o: &'a mut [f32],
    /// `[rows, stride]`: the sums of dq, not yet scaled
    dq: &'a mut [f32],
    /// `[rows]`
    lse: &'a mut [f32],
    /// `[rows]`
    delta: &'a mut [f32],
    /// `[BLOCK, BLOCK]`: scores, then probabilities
    p: &'a mut [f32],
    /// `[BLOCK, BLOCK]`: gradients of the scores
    du: &'a mut [f32],
}

impl Scratch<'_> {
    fn lens(rows: usize, head_dim: usize) -> [usize; 7] {
        let padded = rows * head_dim.next_multiple_of(PAD);
        [BLOCK * BLOCK, BLOCK * BLOCK, padded, padded, padded, rows, rows]
    }

    fn new(scratch: &mut [f32], rows: usize, head_dim: usize) -> Scratch<'_> {
        let [p, du, q, d_o, dq, lse, delta] = parts(scratch, Scratch::lens(rows, head_dim));
        dq.fill(0.0);
        Scratch { stride: head_dim.next_multiple_of(PAD), q, d_o, dq, lse, delta, p, du }
    }

    fn load(&mut self, local: usize, q: &[f32], d_o: &[f32]) {
        for (target, source) in [(&mut *self.q, q), (&mut *self.d_o, d_o)] {
            let (values, padding) = target[local * self.stride..][..self.stride].split_at_mut(q.len());
            values.copy_from_slice(source);
            padding.fill(0.0);
        }
    }
}

/// Computes `delta[i] = d_o[i]·o[i]` for each row and head, in memory order: one head at a time would read the rows in small
/// pieces.
pub(in crate::attention::cpu) fn deltas<T: Loaded>(
    cpu: &Cpu,
    head_dim: usize,
    o: &[T],
    d_o: &[T],
    delta: &mut [f32],
) -> Result<()> {
    const HEADS_PER_TASK: usize = 256;
    let delta_len = delta.len();
    let all = Disjoint::new(delta);
    cpu.for_each_task("attention.delta", delta_len.div_ceil(HEADS_PER_TASK), 0, |task, _| {
        let begin = task * HEADS_PER_TASK;
        let end = (begin + HEADS_PER_TASK).min(delta_len);
        let range = begin * head_dim..end * head_dim;
        // SAFETY: each task has its own range `begin..end`.
        let delta = unsafe { all.slice(begin..end) };
        cpu.isa().dispatch(Deltas { head_dim, o: &o[range.clone()], d_o: &d_o[range], delta });
    })
}

struct Deltas<'a, T> {
    head_dim: usize,
    o: &'a [T],
    d_o: &'a [T],
    delta: &'a mut [f32],
}

impl<T: Loaded> VectorTask for Deltas<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let heads = self.o.chunks_exact(self.head_dim).zip(self.d_o.chunks_exact(self.head_dim));
        for ((o, d_o), delta) in heads.zip(self.delta) {
            // SAFETY: `o` and `d_o` both have `head_dim` elements; the processor has S's instruction set.
            *delta = unsafe { dot::<S, T>(o, d_o) };
        }
    }
}

/// The sums of one head: `[block, BLOCK, padded]`, written by one task.
pub(in crate::attention::cpu) struct HeadBlocks<'a> {
    all: &'a Disjoint<'a, f32>,
    /// The number of the head's first block among those of all heads.
    at: usize,
    block_len: usize,
}

impl HeadBlocks<'_> {
    pub(crate) fn block(&mut self, index: usize) -> &mut [f32] {
        let begin = (self.at + index) * self.block_len;
        // SAFETY: a block belongs to one segment and so to one tree; one task has this tree and this head, and `&mut self`
        // makes this its only borrow.
        unsafe { self.all.slice(begin..begin + self.block_len) }
    }

    /// Copies the first `len` floats of block `from` to block `to`, and zeroes the rest of `to`.
    fn continue_from(&mut self, from: usize, to: usize, len: usize) {
        let begun = self.block(from)[..len].to_vec();
        let (head, rest) = self.block(to).split_at_mut(len);
        head.copy_from_slice(&begun);
        rest.fill(0.0);
    }

    /// Copies the first `len` floats of block `from` to block `to`.
    fn hand_back(&mut self, from: usize, to: usize, len: usize) {
        let done = self.block(from)[..len].to_vec();
        self.block(to)[..len].copy_from_slice(&done);
    }
}

/// The sums that a task adds to.
pub(in crate::attention::cpu) struct Sums<'a> {
    pub dk: HeadBlocks<'a>,
    pub dv: HeadBlocks<'a>,
}

/// Some queries of a segment, at most a block of them, and a block of keys.
pub(in crate::attention::cpu) struct Pair {
    /// The number of the packed block of keys.
    pub index: usize,
    /// The position at which the block of keys begins.
    pub begin: usize,
    /// The queries' positions.
    pub queries: Range<usize>,
}

impl<'a> Sums<'a> {
    /// Makes the sums of the head whose first block is number `at`.
    pub(crate) fn new(dk: &'a Disjoint<'a, f32>, dv: &'a Disjoint<'a, f32>, at: usize, block_len: usize) -> Sums<'a> {
        Sums { dk: HeadBlocks { all: dk, at, block_len }, dv: HeadBlocks { all: dv, at, block_len } }
    }

    /// Calls `pair` for each block of keys with each block of the segment's queries that see some of these keys. Blocks of keys
    /// are the outer loop, and both loops go by position. First sets the segment's own sums to 0, or to the prompt's sums in the
    /// block where the prompt ends. Finally copies the prompt's part of that block back to the prompt's sums.
    pub(crate) fn walk(
        &mut self,
        geometry: &Geometry,
        blocks: &Blocks,
        index: usize,
        segment: &Segment,
        mut pair: impl FnMut(&mut Sums<'a>, Pair),
    ) {
        if segment.rows.is_empty() {
            return;
        }
        let (prefix, positions) = (segment.prefix.len(), segment.positions());
        // In the block where the prompt ends and this branch begins, the branch's copy goes on from the prompt's sums.
        let shared = prefix % BLOCK * (self.dk.block_len / BLOCK);
        let copies = blocks.root(index).filter(|_| shared > 0).map(|root| {
            let block = prefix / BLOCK;
            (blocks.index(root, block), blocks.index(index, block))
        });
        for own in blocks.own(index) {
            self.dk.block(own).fill(0.0);
            self.dv.block(own).fill(0.0);
        }
        if let Some((prompt, branch)) = copies {
            self.dk.continue_from(prompt, branch, shared);
            self.dv.continue_from(prompt, branch, shared);
        }
        for block in geometry.first_visible(prefix) / BLOCK..positions.div_ceil(BLOCK) {
            for of_queries in (prefix / BLOCK).max(block)..positions.div_ceil(BLOCK) {
                let queries = prefix.max(of_queries * BLOCK)..positions.min((of_queries + 1) * BLOCK);
                if geometry.first_visible(queries.start) >= (block + 1) * BLOCK {
                    break;
                }
                pair(self, Pair { index: blocks.index(index, block), begin: block * BLOCK, queries });
            }
        }
        if let Some((prompt, branch)) = copies {
            self.dk.hand_back(branch, prompt, shared);
            self.dv.hand_back(branch, prompt, shared);
        }
    }
}

/// What a task knows of the call.
struct Work<'a> {
    isa: Isa,
    geometry: &'a Geometry,
    kv_head: usize,
    packed: &'a KvParts<3>,
}

impl Work<'_> {
    /// Adds a pair's terms to the sums of dq, dk and dv. The queries' rows in the scratch begin at `local`.
    fn pair(&self, scratch: &mut Scratch<'_>, sums: &mut Sums<'_>, pair: Pair, local: usize) {
        let Pair { index, begin, queries: Range { start: first, end } } = pair;
        let d = self.geometry.head_dim;
        let stride = scratch.stride;
        let scaling = Scaling { scale: self.geometry.scale, softcap: self.geometry.softcap };
        let [k_t, v_t, k] = [0, 1, 2].map(|part| self.packed.part(part, self.kv_head, index));
        for row in (0..end - first).step_by(ROWS) {
            let rows = ROWS.min(end - first - row);
            let part = row * BLOCK..(row + rows) * BLOCK;
            let position = first + row;
            let Some(reach) = Reach::new(self.geometry, position..position + rows, begin) else {
                scratch.p[part.clone()].fill(0.0);
                scratch.du[part].fill(0.0);
                continue;
            };
            let mut spans = [Span::default(); ROWS];
            if !reach.full {
                for (i, span) in spans[..rows].iter_mut().enumerate() {
                    *span = Span::new(self.geometry, position + i, begin);
                }
            }
            let at = local + row;
            for (c, a, b) in [(&mut *scratch.p, &*scratch.q, k_t), (&mut *scratch.du, &*scratch.d_o, v_t)] {
                self.isa.dispatch(Product {
                    c: (&mut c[part.start + reach.first..part.end], BLOCK),
                    a: (&a[at * stride..], [stride, 1]),
                    b: (&b[reach.first..], BLOCK),
                    sizes: [rows, reach.len(), d],
                    add: false,
                });
            }
            for (i, span) in spans[..rows].iter().enumerate() {
                // A row that sees only one key has P = 1 and o = v, so d_o·v = delta. Here delta is set to the computed d_o·v, so
                // that the two cancel exactly.
                if self.geometry.first_visible(position + i) == position + i && span.lo < span.hi {
                    scratch.delta[at + i] = scratch.du[part.start + i * BLOCK + span.lo];
                }
            }
            self.isa.dispatch(ScoreGradients {
                scaling,
                reach,
                spans: &spans[..rows],
                scores: &mut scratch.p[part.clone()],
                gradients: &mut scratch.du[part.clone()],
                lse: &scratch.lse[at..at + rows],
                delta: &scratch.delta[at..at + rows],
            });
            self.isa.dispatch(Product {
                c: (&mut scratch.dq[at * stride..(at + rows) * stride], stride),
                a: (&scratch.du[part.start + reach.first..part.end], [BLOCK, 1]),
                b: (&k[reach.first * stride..], stride),
                sizes: [rows, stride, reach.len()],
                add: true,
            });
        }
        let end_key = (end - begin).min(BLOCK);
        for key in (0..end_key).step_by(ROWS) {
            let keys = ROWS.min(end_key - key);
            // the queries before the first of these keys see none of them
            let from = (begin + key).saturating_sub(first);
            let steps = end - first - from;
            for (target, factors, rows) in
                [(&mut sums.dv, &*scratch.p, &*scratch.d_o), (&mut sums.dk, &*scratch.du, &*scratch.q)]
            {
                self.isa.dispatch(Product {
                    c: (&mut target.block(index)[key * stride..(key + keys) * stride], stride),
                    a: (&factors[from * BLOCK + key..], [1, BLOCK]),
                    b: (&rows[(local + from) * stride..], stride),
                    sizes: [keys, stride, steps],
                    add: true,
                });
            }
        }
    }
}

/// Returns `a·b`.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`. The slices are equally long.
#[inline(always)]
unsafe fn dot<S: Simd, T: Loaded>(a: &[T], b: &[T]) -> f32 {
    // SAFETY: loads end inside the slices, which are equally long; the processor has S's instruction set.
    unsafe {
        let whole = a.len() / S::LANES * S::LANES;
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::fma(T::load::<S>(a.as_ptr().add(at)), T::load::<S>(b.as_ptr().add(at)), sum);
        }
        if whole < a.len() {
            let lanes = a.len() - whole;
            let (a, b) = (a.as_ptr().add(whole), b.as_ptr().add(whole));
            sum = S::fma(T::load_partial::<S>(a, lanes), T::load_partial::<S>(b, lanes), sum);
        }
        S::reduce_add(sum)
    }
}
