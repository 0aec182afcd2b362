//! Backward: one task per tree and query head, as in the f32 version. A pair of blocks is 64 queries by 64 keys.
//!
//! Scores are computed with keys as rows and queries as columns. Rounded to bf16, the weights and gradients are the left operands
//! of the sums over queries (`dv = pᵀ·d_o`, `dk = duᵀ·q`), without being packed again. Interleaved by pairs of keys, the
//! gradients are also the right operand of the sum over keys, `dqᵀ = kᵀ·duᵀ`.

use super::{ACROSS_PANEL, Form, HeadSizes, PackedBlocks, gather, packed_bytes};
use crate::attention::cpu::blocks::{BLOCK, Source};
use crate::attention::cpu::lists::{Lists, Tree};
use crate::attention::cpu::vectors::backward::{
    HeadBlocks, Known, Pair, Sums, add_heads, deltas, sums_bytes, tasks_bytes,
};
use crate::attention::{Geometry, Layout, Segment};
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::{Disjoint, parts};
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::{self, STEP_BYTES, STEP_DEPTH, Step};
use crate::cpu::unit::pack::{Role, interleaved, transposed};
use crate::cpu::unit::vector::{exp, lanes, rounded};
use crate::{Device, Result};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Computes the gradients that `Backward` defines, on the unit.
pub(in crate::attention::cpu) fn backward(
    device: &Device,
    cpu: &Cpu,
    unit: Unit,
    (geometry, layout): (Geometry, &Layout),
    known: Known<'_, bf16>,
    dqkv: &mut [bf16],
) -> Result<()> {
    let Geometry { num_attention_heads: heads, head_dim, .. } = geometry;
    let (cols, head) = (geometry.qkv_cols(), HeadSizes::new(&geometry));
    let (segments, Lists { uncovered, blocks, trees }) = (layout.segments(), layout.cpu());
    for gap in uncovered {
        dqkv[gap.start * cols..gap.end * cols].fill(bf16::ZERO);
    }
    let forms = [
        (Source::Keys, Form::Along, Role::Left),
        (Source::Keys, Form::Across, Role::Left),
        (Source::Values, Form::Along, Role::Left),
    ];
    let packed = PackedBlocks::new(device, cpu, (&geometry, segments, blocks), known.qkv, forms)?;
    let mut delta = device.alloc("attention.delta", layout.rows() * heads)?;
    deltas(cpu, head_dim, known.o, known.d_o, delta.view_mut().cpu())?;

    let queries_of = |segment: &Segment, block: usize| {
        segment.prefix.len().max(block * BLOCK)..segment.positions().min((block + 1) * BLOCK)
    };
    let blocks_of = |index: usize| query_blocks(&segments[index]);
    // [head, block, BLOCK, padded]: the sums of dk, and those of dv
    let block_len = BLOCK * head.padded();
    let mut dk_heads = device.alloc("attention.dk_heads", heads * blocks.len() * block_len)?;
    let mut dv_heads = device.alloc("attention.dv_heads", heads * blocks.len() * block_len)?;
    {
        let (dqkv, delta) = (Disjoint::new(&mut *dqkv), delta.view().cpu());
        let (dk_heads, dv_heads) = (Disjoint::new(dk_heads.view_mut().cpu()), Disjoint::new(dv_heads.view_mut().cpu()));
        let len = scratch_len(&geometry, layout);
        cpu.for_each_task("attention.scratch", trees.len() * heads, len, |task, scratch| {
            let (tree, query_head) = (&trees[task / heads], task % heads);
            let mut scratch = Scratch::new(scratch, blocks_of_tree(segments, tree), head);
            let work =
                Work { unit, geometry: &geometry, head, kv_head: query_head / geometry.group(), packed: &packed };
            let mut sums = Sums::new(&dk_heads, &dv_heads, query_head * blocks.len(), block_len);
            // SAFETY: `unit` is one that `Isa::available` found.
            unsafe { unit.configure() };
            let mut first_block = 0;
            for &index in &tree.segments {
                let segment = &segments[index];
                for (i, block) in blocks_of(index).enumerate() {
                    let queries = queries_of(segment, block);
                    scratch.load(first_block + i, &geometry, segment, queries, &known, delta, query_head);
                }
                sums.walk(&geometry, blocks, index, segment, |sums, pair| {
                    let block = first_block + pair.queries.start / BLOCK - blocks_of(index).start;
                    // SAFETY: the unit was configured above, on this thread.
                    unsafe { work.pair(&mut scratch, sums, pair, block) };
                });
                for (i, block) in blocks_of(index).enumerate() {
                    let queries = queries_of(segment, block);
                    let row = |position: usize| segment.row_at(position) * cols + geometry.query(query_head);
                    // SAFETY: trees share no rows, and a head of a tree is one task; the processor has the unit.
                    unsafe { scratch.put_dq(first_block + i, queries, geometry.scale, row, &dqkv) };
                }
                first_block += blocks_of(index).len();
            }
        })?;
    }

    let sums = [dk_heads.view().cpu(), dv_heads.view().cpu()];
    add_heads(cpu, (&geometry, segments, blocks), sums, block_len, dqkv)
}

/// The numbers of the blocks that hold a segment's queries.
fn query_blocks(segment: &Segment) -> Range<usize> {
    segment.prefix.len() / BLOCK..segment.positions().div_ceil(BLOCK)
}

/// How many blocks hold queries of the segments of a tree.
fn blocks_of_tree(segments: &[Segment], tree: &Tree) -> usize {
    tree.segments.iter().map(|&index| query_blocks(&segments[index]).len()).sum()
}

/// Floats of scratch that a thread needs.
fn scratch_len(geometry: &Geometry, layout: &Layout) -> usize {
    let blocks = layout.cpu().trees.iter().map(|tree| blocks_of_tree(layout.segments(), tree));
    Scratch::lens(blocks.max().unwrap_or(0), HeadSizes::new(geometry)).iter().sum()
}

/// Bytes that [`backward`] needs while it runs.
pub(in crate::attention::cpu) fn scratch(cpu: &Cpu, _: Unit, geometry: &Geometry, layout: &Layout) -> usize {
    let [packed, packing] = packed_bytes(cpu, geometry, &layout.cpu().blocks, 3);
    let sums = sums_bytes(layout, geometry.num_attention_heads, BLOCK * HeadSizes::new(geometry).padded());
    packed + packing.max(sums + tasks_bytes(cpu, geometry, layout, scratch_len(geometry, layout)))
}

/// A task's scratch: the queries of a tree for one head, in blocks by position, and the scores of one pair of blocks.
pub(super) struct Scratch<'a> {
    head: HeadSizes,
    /// The forms of each block: queries along, `d_o` along, queries across, `d_o` across
    packed: &'a mut [f32],
    /// `[blocks, padded, BLOCK]`: the sums of dq, transposed, not yet scaled
    dq: &'a mut [f32],
    /// `[blocks, BLOCK]`
    lse: &'a mut [f32],
    /// `[blocks, BLOCK]`
    delta: &'a mut [f32],
    /// `[BLOCK keys, BLOCK queries]`: scores
    s: &'a mut [f32],
    /// `[BLOCK keys, BLOCK queries]`: `v·d_o`
    dp: &'a mut [f32],
    /// Weights in bf16, keys as rows
    p: &'a mut [f32],
    /// Gradients of scores in bf16, keys as rows
    du: &'a mut [f32],
    /// The same gradients, interleaved by pairs of keys: a right operand whose columns are queries
    du_right: &'a mut [f32],
    /// `[BLOCK, dim]`: rows in bf16 before they are packed
    rows: &'a mut [f32],
}

/// Floats that hold a block of weights in bf16.
const WEIGHTS: usize = BLOCK_PANELS * ACROSS_PANEL / 4;
/// Panels of 32 rows or columns in a block.
const BLOCK_PANELS: usize = BLOCK / STEP_DEPTH;

impl Scratch<'_> {
    pub(super) fn lens(blocks: usize, head: HeadSizes) -> [usize; 10] {
        [
            // four forms of `form_bytes` bytes each; a float has 4 bytes, so `form_bytes` floats in all
            blocks * head.form_bytes(),
            blocks * head.padded() * BLOCK,
            blocks * BLOCK,
            blocks * BLOCK,
            BLOCK * BLOCK,
            BLOCK * BLOCK,
            WEIGHTS,
            WEIGHTS,
            WEIGHTS,
            (BLOCK * head.dim).div_ceil(2).next_multiple_of(16),
        ]
    }

    fn new(scratch: &mut [f32], blocks: usize, head: HeadSizes) -> Scratch<'_> {
        let [packed, dq, lse, delta, s, dp, p, du, du_right, rows] = parts(scratch, Scratch::lens(blocks, head));
        dq.fill(0.0);
        Scratch { head, packed, dq, lse, delta, s, dp, p, du, du_right, rows }
    }

    /// Returns where a packed form of a block begins.
    fn form(&mut self, block: usize, form: usize) -> *mut u8 {
        let at = block * self.head.form_bytes() + form * self.head.form_bytes() / 4;
        self.packed[at..].as_mut_ptr().cast()
    }

    /// Packs the queries of a block and their `d_o`, and copies their `lse` and `delta`, each to the place of its position.
    #[expect(clippy::too_many_arguments, reason = "which queries, and what is known of them")]
    fn load(
        &mut self,
        block: usize,
        geometry: &Geometry,
        segment: &Segment,
        queries: Range<usize>,
        known: &Known<'_, bf16>,
        delta: &[f32],
        query_head: usize,
    ) {
        let (head, heads) = (self.head, geometry.num_attention_heads);
        let begin = queries.start / BLOCK * BLOCK;
        let [lse, deltas] = [&mut *self.lse, &mut *self.delta].map(|x| &mut x[block * BLOCK..(block + 1) * BLOCK]);
        lse.fill(0.0);
        deltas.fill(0.0);
        for position in queries.clone() {
            let at = segment.row_at(position) * heads + query_head;
            lse[position - begin] = known.lse[at];
            deltas[position - begin] = delta[at];
        }
        let (qkv_cols, query) = (geometry.qkv_cols(), geometry.query(query_head));
        for (form, from, cols) in [(0, known.qkv, qkv_cols), (1, known.d_o, heads * head.dim)] {
            let rows = &mut bytemuck::cast_slice_mut::<f32, bf16>(self.rows)[..BLOCK * head.dim];
            let place = |row: usize| row * cols + query..row * cols + query + head.dim;
            gather(rows, segment, queries.clone(), begin, place, from);
            let rows = rows.as_ptr();
            let (along, across) = (self.form(block, form), self.form(block, form + 2));
            // SAFETY: `backward` runs with a unit that `Isa::available` found; `rows` is a block of rows, and each form's place
            // holds `form_bytes` bytes and is at a multiple of 64 bytes.
            unsafe {
                head.pack(rows, Form::Along, Role::Right, along);
                head.pack(rows, Form::Across, Role::Right, across);
            }
        }
    }

    /// Writes `dq` of a block's queries to the rows that begin at `row(position)`.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; nobody else touches these rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn put_dq(
        &self,
        block: usize,
        queries: Range<usize>,
        scale: f32,
        row: impl Fn(usize) -> usize,
        dqkv: &Disjoint<'_, bf16>,
    ) {
        let (padded, dim) = (self.head.padded(), self.head.dim);
        let sums = &self.dq[block * padded * BLOCK..(block + 1) * padded * BLOCK];
        let (begin, scale) = (queries.start / BLOCK * BLOCK, _mm512_set1_ps(scale));
        for first_query in (0..BLOCK).step_by(16) {
            for first_col in (0..dim).step_by(16) {
                // SAFETY: 16 sums inside a row of BLOCK are read. Only the columns of the mask are written, in rows that nobody
                // else touches, as the caller promises.
                unsafe {
                    let lines = std::array::from_fn(|col| {
                        _mm512_loadu_si512(sums[(first_col + col) * BLOCK + first_query..].as_ptr().cast())
                    });
                    let width = (dim - first_col).min(16);
                    let mask = ((1u32 << width) - 1) as __mmask16;
                    for (i, line) in transposed(lines).into_iter().enumerate() {
                        let position = begin + first_query + i;
                        if queries.contains(&position) {
                            let at = row(position) + first_col;
                            let to = dqkv.slice(at..at + width).as_mut_ptr();
                            let scaled = _mm512_mul_ps(_mm512_castsi512_ps(line), scale);
                            let narrow = _mm512_castsi512_si256(rounded(scaled, scaled));
                            // 32 lanes of 16 bits: the first half is this line
                            let narrow = _mm512_castsi256_si512(narrow);
                            _mm512_mask_storeu_epi16(to.cast(), __mmask32::from(mask), narrow);
                        }
                    }
                }
            }
        }
    }
}

/// What a task knows of the call.
struct Work<'a> {
    unit: Unit,
    geometry: &'a Geometry,
    head: HeadSizes,
    kv_head: usize,
    packed: &'a PackedBlocks,
}

impl Work<'_> {
    /// Adds a pair's terms to the sums of dq, dk and dv.
    ///
    /// # Safety
    /// The processor has the unit, configured on this thread.
    unsafe fn pair(&self, scratch: &mut Scratch<'_>, sums: &mut Sums<'_>, pair: Pair, block: usize) {
        let HeadSizes { steps, .. } = self.head;
        let [k, k_across, v] = [0, 1, 2].map(|form| self.packed.form(self.kv_head, pair.index, form));
        let [q, d_o, q_across, d_o_across] = [0, 1, 2, 3].map(|form| scratch.form(block, form).cast_const());
        let along_panel = self.head.along_panel();
        // SAFETY: the unit is configured, as the caller promises; panels and sums are those of whole blocks.
        unsafe {
            for (to, left, right) in [(scratch.s.as_mut_ptr(), k, q), (scratch.dp.as_mut_ptr(), v, d_o)] {
                let panels = Panels { left: (BLOCK_PANELS, along_panel), right: (BLOCK_PANELS, along_panel), steps };
                panels.multiply(self.unit, left, right, to, BLOCK, true);
            }
            self.gradients(scratch, &pair, block);
            let over_rows = |right| {
                let [left, right] = [BLOCK_PANELS, right].map(|panels| (panels, ACROSS_PANEL));
                Panels { left, right, steps: BLOCK_PANELS }
            };
            let padded = self.head.padded();
            let add = |left: &[f32], right, to: &mut HeadBlocks<'_>| {
                let (left, to) = (left.as_ptr().cast(), to.block(pair.index).as_mut_ptr());
                over_rows(steps).multiply(self.unit, left, right, to, padded, false);
            };
            add(scratch.p, d_o_across, &mut sums.dv);
            add(scratch.du, q_across, &mut sums.dk);
            let dq = scratch.dq[block * padded * BLOCK..].as_mut_ptr();
            let transposed = Panels { left: (steps, ACROSS_PANEL), ..over_rows(BLOCK_PANELS) };
            transposed.multiply(self.unit, k_across, scratch.du_right.as_ptr().cast(), dq, BLOCK, false);
        }
    }

    /// Turns scores and `d_o·v` into weights `p = exp(z - lse)` and `du = p (d_o·v - delta) dz/du`, rounded and packed.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn gradients(&self, scratch: &mut Scratch<'_>, pair: &Pair, block: usize) {
        let Pair { begin, queries, .. } = pair;
        let first = queries.start / BLOCK * BLOCK;
        let own = block * BLOCK..(block + 1) * BLOCK;
        for position in queries.clone() {
            // A row that sees only one key has p = 1 and o = v, so d_o·v = delta. Here delta is set to the computed d_o·v, so
            // that the two cancel exactly.
            if self.geometry.first_visible(position) == position && (*begin..begin + BLOCK).contains(&position) {
                let query = position - first;
                scratch.delta[own.start + query] = scratch.dp[(position - begin) * BLOCK + query];
            }
        }
        let window = self.geometry.sliding_window.unwrap_or(usize::MAX);
        let (lse, delta) = (&scratch.lse[own.clone()], &scratch.delta[own]);
        let scale = _mm512_set1_ps(self.geometry.scale);
        let [p_to, du_to, right_to]: [*mut u8; 3] =
            [&mut *scratch.p, &mut *scratch.du, &mut *scratch.du_right].map(|x| x.as_mut_ptr().cast());
        for key in (0..BLOCK).step_by(2) {
            for half in 0..BLOCK / STEP_DEPTH {
                let mut du_lines = [_mm512_setzero_si512(); 2];
                for (i, du_line) in du_lines.iter_mut().enumerate() {
                    let key = key + i;
                    // the queries that see this key, by their place in the block
                    let visible =
                        (begin + key).max(queries.start)..(begin + key).saturating_add(window).min(queries.end);
                    let visible = visible.start - first..visible.end.max(visible.start) - first;
                    let mut both = [[_mm512_setzero_ps(); 2]; 2];
                    for (part, [p, du]) in both.iter_mut().enumerate() {
                        let at = half * STEP_DEPTH + 16 * part;
                        let mask = lanes(&visible, at);
                        if mask == 0 {
                            continue;
                        }
                        let place = key * BLOCK + at;
                        // SAFETY: every load reads 16 floats, from `place` or `at` on, and stays inside a row of BLOCK.
                        unsafe {
                            let u = _mm512_mul_ps(_mm512_loadu_ps(scratch.s[place..].as_ptr()), scale);
                            let (z, slope) = match self.geometry.softcap {
                                None => (u, None),
                                Some(cap) => capped(u, cap),
                            };
                            let z = _mm512_sub_ps(z, _mm512_loadu_ps(lse[at..].as_ptr()));
                            *p = _mm512_maskz_mov_ps(mask, exp(z));
                            let dp = _mm512_loadu_ps(scratch.dp[place..].as_ptr());
                            let difference = _mm512_sub_ps(dp, _mm512_loadu_ps(delta[at..].as_ptr()));
                            *du = _mm512_maskz_mul_ps(mask, *p, difference);
                            if let Some(slope) = slope {
                                *du = _mm512_mul_ps(*du, slope);
                            }
                        }
                    }
                    let line = key / 32 * ACROSS_PANEL + half * STEP_BYTES + key % 32 / 16 * 1024 + key % 16 * 64;
                    let p_line = rounded(both[0][0], both[1][0]);
                    *du_line = rounded(both[0][1], both[1][1]);
                    // SAFETY: the line is inside `p` and `du`: it is that of the key's row, in the step of these queries.
                    unsafe {
                        _mm512_store_si512(p_to.add(line).cast(), p_line);
                        _mm512_store_si512(du_to.add(line).cast(), *du_line);
                    }
                }
                let lines = interleaved(du_lines[0], du_lines[1]);
                for (part, line) in lines.into_iter().enumerate() {
                    let at = half * ACROSS_PANEL + key / 32 * STEP_BYTES + part * 1024 + key % 32 / 2 * 64;
                    // SAFETY: the line is inside `du_right`: it is that of this pair of keys, in the panel of these queries.
                    unsafe { _mm512_store_si512(right_to.add(at).cast(), line) };
                }
            }
        }
    }
}

/// Returns `cap * tanh(u / cap)` and its slope, `1 - tanh²`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn capped(u: __m512, cap: f32) -> (__m512, Option<__m512>) {
    let one = _mm512_set1_ps(1.0);
    let x = _mm512_div_ps(u, _mm512_set1_ps(cap));
    // tanh|x| = (1 - e) / (1 + e) with e = exp(-2|x|): near 0, digits of 1 - e cancel, but the absolute error of a score stays
    // far below the error of rounding the attention weights to bf16
    let e = exp(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-2.0)));
    let t = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
    let t = _mm512_mask_sub_ps(t, negative, _mm512_setzero_ps(), t);
    (_mm512_mul_ps(t, _mm512_set1_ps(cap)), Some(_mm512_fnmadd_ps(t, t, one)))
}

/// A product of packed panels. `left` and `right` are each the number of an operand's panels, and the bytes of one panel.
#[derive(Clone, Copy)]
struct Panels {
    left: (usize, usize),
    right: (usize, usize),
    /// Steps of the depth.
    steps: usize,
}

impl Panels {
    /// Multiplies every left panel by every right panel: `to (+)= left · right`, where `to` has 32 rows for each left panel, 32
    /// columns for each right one, and rows `stride` floats apart. With `from_zero` the sums start from 0 instead of `to`.
    ///
    /// # Safety
    /// The unit is configured on this thread; the operands hold their panels, and `to` the sums.
    unsafe fn multiply(
        self,
        unit: Unit,
        left: *const u8,
        right: *const u8,
        to: *mut f32,
        stride: usize,
        from_zero: bool,
    ) {
        let steps = Step::consecutive(self.steps);
        for row in 0..self.left.0 {
            for col in 0..self.right.0 {
                let (left, right) = (left.wrapping_add(row * self.left.1), right.wrapping_add(col * self.right.1));
                // SAFETY: the operands hold panels `row` and `col`, and `to` their sums, as the caller promises.
                unsafe {
                    let at = to.add(row * 32 * stride + col * 32);
                    let sums = block_sum::Sums { at, stride: 4 * stride, from_zero };
                    unit.run_in_place(&steps, left, right, sums, right);
                }
            }
        }
    }
}
