//! Forward: one task per run of 32 query positions and key-value head. All scores of a run are computed first, so that a row's
//! maximum is known before its weights are computed. The weights, rounded, are then multiplied by the values.

use super::{ACROSS_PANEL, Form, HeadSizes, PackedBlocks, packed_bytes};
use crate::attention::cpu::blocks::{BLOCK, Source};
use crate::attention::cpu::lists::{Job, Lists, jobs};
use crate::attention::{Geometry, Layout};
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::{Disjoint, parts};
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::{BLOCK as ROWS, STEP_BYTES, STEP_DEPTH, Step, Sums};
use crate::cpu::unit::pack::{self, Matrix, Role};
use crate::cpu::unit::vector::{exp, lanes, rounded};
use crate::cpu::vectors::Simd;
use crate::cpu::vectors::pointwise::{Map, Pointwise};
use crate::{Device, Result};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Computes the `o` and `lse` that `Forward` defines, on the unit.
pub(in crate::attention::cpu) fn forward(
    device: &Device,
    cpu: &Cpu,
    unit: Unit,
    (geometry, layout): (Geometry, &Layout),
    qkv: &[bf16],
    o: &mut [bf16],
    lse: &mut [f32],
) -> Result<()> {
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = geometry;
    let (o_cols, head) = (heads * head_dim, HeadSizes::new(&geometry));
    let (segments, Lists { uncovered, blocks, .. }) = (layout.segments(), layout.cpu());
    for gap in uncovered {
        o[gap.start * o_cols..gap.end * o_cols].fill(bf16::ZERO);
        lse[gap.start * heads..gap.end * heads].fill(0.0);
    }
    let forms = [(Source::Keys, Form::Along, Role::Right), (Source::Values, Form::Across, Role::Right)];
    let packed = PackedBlocks::new(device, cpu, (&geometry, segments, blocks), qkv, forms)?;

    let jobs = jobs(&geometry, segments, ROWS);
    let len = scratch_len(&geometry, &jobs);
    let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
    let along = Step::consecutive(head.steps);
    cpu.for_each_task("attention.scratch", jobs.len() * kv_heads, len, |task, scratch| {
        let (job, kv_head) = (&jobs[task / kv_heads], task % kv_heads);
        let segment = &segments[job.segment];
        let key_blocks = seen(&geometry, job);
        let mut run = Run::new(scratch, key_blocks.len(), head);
        run.begin = key_blocks.start * BLOCK;
        run.queries = job.first..job.first + job.positions;
        let forms: Vec<[*const u8; 2]> = (key_blocks.clone())
            .map(|block| blocks.index(job.segment, block))
            .map(|index| [packed.form(kv_head, index, 0), packed.form(kv_head, index, 1)])
            .collect();
        let first_row = segment.row_at(job.first);
        for query_head in kv_head * geometry.group()..(kv_head + 1) * geometry.group() {
            let at = first_row * geometry.qkv_cols() + geometry.query(query_head);
            let queries =
                Matrix { at: qkv[at..].as_ptr(), stride: geometry.qkv_cols(), side: job.positions, depth: head_dim };
            // SAFETY: `unit` is one that `Isa::available` found; the rows of a run follow each other, inside `qkv`; the forms are
            // packed.
            unsafe {
                unit.configure();
                pack::along_depth::<bf16, 1>(queries, Role::Left, 0..1, run.q.as_mut_ptr().cast(), head.along_panel());
                run.scores(unit, &along, &forms);
            }
            if let Some(cap) = geometry.softcap {
                let f = Cap { scale: geometry.scale, cap };
                cpu.isa().dispatch(Map { f: &f, x: [] as [&[f32]; 0], y: [&mut *run.s] });
            }
            let scale = if geometry.softcap.is_some() { 1.0 } else { geometry.scale };
            // SAFETY: the processor has a unit, and so AVX-512 with bf16.
            unsafe { run.weights(&geometry, scale) };
            let forms: Vec<*const u8> = forms.iter().map(|[_, values]| *values).collect();
            for panel in 0..head.steps {
                // SAFETY: the unit was configured above, and `forms` are those of the run's blocks.
                unsafe { run.values(unit, panel, &forms) };
                for i in 0..job.positions {
                    let cols = panel * STEP_DEPTH..head_dim.min((panel + 1) * STEP_DEPTH);
                    let at = (first_row + i) * o_cols + query_head * head_dim;
                    // SAFETY: segments share no rows and jobs no positions, so each row and head belongs to one task; the
                    // columns are the head's.
                    unsafe {
                        let o = o.slice(at + cols.start..at + cols.end);
                        run.store(i, o);
                    }
                }
            }
            for i in 0..job.positions {
                let at = (first_row + i) * heads + query_head;
                // SAFETY: each row and head belongs to one task, as segments share no rows and jobs no positions.
                let lse = unsafe { lse.slice(at..at + 1) };
                lse[0] = (f64::from(run.max[i]) + f64::from(run.sum[i]).ln()) as f32;
            }
        }
    })
}

/// `cap * tanh(scale * s / cap)`
struct Cap {
    scale: f32,
    cap: f32,
}

impl Pointwise<0, 1> for Cap {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, _: [S::V; 0], [s]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller of `Pointwise::apply` promises that the processor has the instruction set of S.
        unsafe { [S::mul(S::splat(self.cap), S::tanh(S::mul(s, S::splat(self.scale / self.cap))))] }
    }
}

/// The numbers of the blocks of keys that a job's queries see.
fn seen(geometry: &Geometry, job: &Job) -> Range<usize> {
    geometry.first_visible(job.first) / BLOCK..(job.first + job.positions).div_ceil(BLOCK)
}

/// Floats of scratch that a thread needs for any of `jobs`.
fn scratch_len(geometry: &Geometry, jobs: &[Job]) -> usize {
    let most_blocks = jobs.iter().map(|job| seen(geometry, job).len()).max().unwrap_or(0);
    Run::lens(most_blocks, HeadSizes::new(geometry)).iter().sum()
}

/// Bytes that [`forward`] needs while it runs.
pub(in crate::attention::cpu) fn scratch(cpu: &Cpu, _: Unit, geometry: &Geometry, layout: &Layout) -> usize {
    let [packed, packing] = packed_bytes(cpu, geometry, &layout.cpu().blocks, 2);
    let jobs = jobs(geometry, layout.segments(), ROWS);
    let len = scratch_len(geometry, &jobs);
    packed + packing.max(cpu.bytes_of_tasks(jobs.len() * geometry.num_key_value_heads, len))
}

/// Scratch for one query head of a task.
pub(super) struct Run<'a> {
    head: HeadSizes,
    /// Floats from row to row of `s`.
    stride: usize,
    /// The position of the first key.
    begin: usize,
    /// Positions of the queries.
    queries: Range<usize>,
    /// Queries, packed
    q: &'a mut [f32],
    /// Weights, packed: `[keys / 32]` steps
    p: &'a mut [f32],
    /// `[ROWS, stride]`
    s: &'a mut [f32],
    /// `[ROWS, 32]`: one panel of `p·v`
    o: &'a mut [f32],
    /// `[ROWS]`
    max: &'a mut [f32],
    /// `[ROWS]`
    sum: &'a mut [f32],
}

impl Run<'_> {
    /// Floats from one row of scores to the next: not a power of two, so that the rows do not fall into the same sets of a cache.
    fn stride(blocks: usize) -> usize {
        blocks * BLOCK + 16
    }

    pub(super) fn lens(blocks: usize, head: HeadSizes) -> [usize; 6] {
        [head.along_panel() / 4, blocks * ACROSS_PANEL / 4, ROWS * Run::stride(blocks), ROWS * 32, ROWS, ROWS]
    }

    fn new(scratch: &mut [f32], blocks: usize, head: HeadSizes) -> Run<'_> {
        let [q, p, s, o, max, sum] = parts(scratch, Run::lens(blocks, head));
        Run { head, stride: Run::stride(blocks), begin: 0, queries: 0..0, q, p, s, o, max, sum }
    }

    /// Steps of 32 keys up to the last key that a query sees.
    fn key_steps(&self) -> usize {
        (self.queries.end - self.begin).div_ceil(STEP_DEPTH)
    }

    /// `s = q·kᵀ`
    ///
    /// # Safety
    /// The unit is configured on this thread; the forms are those of the run's blocks.
    unsafe fn scores(&mut self, unit: Unit, along: &[Step], forms: &[[*const u8; 2]]) {
        let stride = 4 * self.stride;
        for step in 0..self.key_steps() {
            let keys = forms[step / 2][0].wrapping_add(step % 2 * self.head.along_panel());
            let at = self.s[step * STEP_DEPTH..].as_mut_ptr();
            // SAFETY: the unit is configured and the forms hold the keys, as the caller promises; `s` holds the columns of every
            // step.
            unsafe {
                let sums = Sums { at, stride, from_zero: true };
                unit.run_in_place(along, self.q.as_ptr().cast(), keys, sums, keys);
            }
        }
    }

    /// Turns scores into weights `exp(scale * s - max)`, rounded and packed. Sums the weights before they are rounded.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn weights(&mut self, geometry: &Geometry, scale: f32) {
        let steps = self.key_steps();
        let factor = _mm512_set1_ps(scale);
        for (i, position) in self.queries.clone().enumerate() {
            let visible = geometry.first_visible(position) - self.begin..position + 1 - self.begin;
            let seen = visible.start / STEP_DEPTH..visible.end.div_ceil(STEP_DEPTH);
            let row = self.s[i * self.stride..][..steps * STEP_DEPTH].as_ptr();
            let line = |step: usize| step * STEP_BYTES + i / 16 * 1024 + i % 16 * 64;
            // SAFETY: a row of `s` holds whole steps, and `p` holds a line of each step for every row.
            unsafe {
                let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
                let mut largest = lowest;
                for at in (seen.start * STEP_DEPTH..seen.end * STEP_DEPTH).step_by(16) {
                    let z = _mm512_mul_ps(_mm512_loadu_ps(row.add(at)), factor);
                    largest = _mm512_mask_max_ps(largest, lanes(&visible, at), largest, z);
                }
                let max = _mm512_reduce_max_ps(largest);
                let top = _mm512_set1_ps(max);
                let mut total = _mm512_setzero_ps();
                let p: *mut u8 = self.p.as_mut_ptr().cast();
                for step in 0..steps {
                    let mut both = [_mm512_setzero_ps(); 2];
                    if seen.contains(&step) {
                        for (half, p) in both.iter_mut().enumerate() {
                            let at = step * STEP_DEPTH + 16 * half;
                            let z = _mm512_fmsub_ps(_mm512_loadu_ps(row.add(at)), factor, top);
                            *p = _mm512_maskz_mov_ps(lanes(&visible, at), exp(z));
                            total = _mm512_add_ps(total, *p);
                        }
                    }
                    _mm512_store_si512(p.add(line(step)).cast(), rounded(both[0], both[1]));
                }
                self.max[i] = max;
                self.sum[i] = _mm512_reduce_add_ps(total);
            }
        }
    }

    /// Computes one panel of 32 columns of `p·v`.
    ///
    /// # Safety
    /// The unit is configured on this thread; the forms are those of the run's blocks.
    unsafe fn values(&mut self, unit: Unit, panel: usize, forms: &[*const u8]) {
        let base = forms[0];
        let mut steps: Vec<Step> = (0..self.key_steps())
            .map(|step| {
                let from = forms[step / 2].wrapping_add(panel * ACROSS_PANEL + step % 2 * STEP_BYTES);
                Step { left: step * STEP_BYTES, right: from.addr().wrapping_sub(base.addr()) }
            })
            .collect();
        steps.push(Step { left: 0, right: 0 });
        let sums = Sums { at: self.o.as_mut_ptr(), stride: 128, from_zero: true };
        // SAFETY: the unit is configured and the forms hold the values, as the caller promises; all forms are in one buffer.
        unsafe { unit.run_in_place(&steps, self.p.as_ptr().cast(), base, sums, base) };
    }

    /// Writes row `i` of the panel, divided by the row's sum.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the output has at most 32 columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn store(&self, i: usize, o: &mut [bf16]) {
        let inverse = _mm512_set1_ps(1.0 / self.sum[i]);
        let row = self.o[i * 32..][..32].as_ptr();
        let mask = ((1u64 << o.len()) - 1) as __mmask32;
        // SAFETY: a row of 32 floats is read; only the columns of the mask are written.
        unsafe {
            let [low, high] = [0, 16].map(|at| _mm512_mul_ps(_mm512_loadu_ps(row.add(at)), inverse));
            _mm512_mask_storeu_epi16(o.as_mut_ptr().cast(), mask, rounded(low, high));
        }
    }
}
