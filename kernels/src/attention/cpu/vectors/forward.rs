//! Forward: one task per run of query positions and key-value head; each block of keys is read once for the query heads that
//! share it.

use super::product::Product;
use super::softmax::{OnlineSoftmax, Scaling};
use crate::attention::cpu::blocks::{BLOCK, Blocks, Form, KvParts, PAD, ROWS, Reach, Source, Span, pack, packed_bytes};
use crate::attention::cpu::lists::{Job, Lists, jobs};
use crate::attention::{Geometry, Layout, Segment};
use crate::cpu::Cpu;
use crate::cpu::Isa;
use crate::cpu::threads::tasks::{Disjoint, parts};
use crate::{Device, Result};

/// The number of query rows that a task aims at, counting each head of the group. With 64 columns, 96 rows are 24 KiB of queries
/// and 24 KiB of outputs. All of the rows use a block of keys and values once it is in the first-level cache.
const TASK_ROWS: usize = 96;

/// Computes the `o` and `lse` that `Forward` defines, in f32.
pub(in crate::attention::cpu) fn forward(
    device: &Device,
    cpu: &Cpu,
    (geometry, layout): (Geometry, &Layout),
    qkv: &[f32],
    o: &mut [f32],
    lse: &mut [f32],
) -> Result<()> {
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim: d, .. } = geometry;
    let (segments, Lists { uncovered, blocks, .. }) = (layout.segments(), layout.cpu());
    for gap in uncovered {
        o[gap.start * heads * d..gap.end * heads * d].fill(0.0);
        lse[gap.start * heads..gap.end * heads].fill(0.0);
    }
    let parts = [(Source::Keys, Form::Transposed), (Source::Values, Form::Rows)];
    let packed = pack(device, cpu, &geometry, segments, blocks, qkv, parts)?;

    let jobs = jobs(&geometry, segments, step(&geometry));
    let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
    cpu.for_each_task("attention.scratch", jobs.len() * kv_heads, scratch_len(&geometry), |task, scratch| {
        let (job, kv_head) = (&jobs[task / kv_heads], task % kv_heads);
        let mut run = Run::new(scratch, job.positions * geometry.group(), d);
        run.load(qkv, &geometry, &segments[job.segment], job.first, kv_head);
        run.attend(cpu.isa(), &geometry, job, kv_head, blocks, &packed);
        for (i, (&max, sum)) in run.max.iter().zip(run.sum.chunks_exact(PAD)).enumerate() {
            let row = segments[job.segment].row_at(job.first + i / geometry.group());
            let head = row * heads + kv_head * geometry.group() + i % geometry.group();
            let sum: f32 = sum.iter().sum();
            let inverse = 1.0 / sum;
            // SAFETY: segments share no rows and jobs no positions, so each row and head belongs to one task.
            let (o, lse) = unsafe { (o.slice(head * d..(head + 1) * d), lse.slice(head..head + 1)) };
            for (o, &weighted) in o.iter_mut().zip(&run.o[i * run.o_cols..]) {
                *o = weighted * inverse;
            }
            lse[0] = (f64::from(max) + f64::from(sum).ln()) as f32;
        }
    })
}

/// Query positions of a task.
fn step(geometry: &Geometry) -> usize {
    (TASK_ROWS / geometry.group()).clamp(8, BLOCK)
}

/// Bytes that [`forward`] needs while it runs.
pub(in crate::attention::cpu) fn scratch(cpu: &Cpu, geometry: &Geometry, layout: &Layout) -> usize {
    let packed = packed_bytes(geometry, &layout.cpu().blocks, [Form::Transposed, Form::Rows]);
    let jobs = jobs(geometry, layout.segments(), step(geometry)).len();
    packed + cpu.bytes_of_tasks(jobs * geometry.num_key_value_heads, scratch_len(geometry))
}

/// Floats of scratch that a thread needs.
fn scratch_len(geometry: &Geometry) -> usize {
    Run::lens(step(geometry) * geometry.group(), geometry.head_dim).iter().sum()
}

/// A task's scratch. Row `i` is query head `i % group` of position `first + i / group`.
struct Run<'a> {
    /// `[rows, head_dim]`
    q: &'a mut [f32],
    /// `[rows, o_cols]`: `Σ exp(z - max) v`
    o: &'a mut [f32],
    o_cols: usize,
    /// `[rows]`
    max: &'a mut [f32],
    /// `[rows, PAD]`: see [`OnlineSoftmax`]
    sum: &'a mut [f32],
    /// `[ROWS, BLOCK]`
    scores: &'a mut [f32],
}

impl Run<'_> {
    fn lens(rows: usize, head_dim: usize) -> [usize; 5] {
        [ROWS * BLOCK, rows * head_dim.next_multiple_of(PAD), rows * PAD, rows * head_dim, rows]
    }

    fn new(scratch: &mut [f32], rows: usize, head_dim: usize) -> Run<'_> {
        let [scores, o, sum, q, max] = parts(scratch, Run::lens(rows, head_dim));
        o.fill(0.0);
        sum.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        Run { q, o, o_cols: head_dim.next_multiple_of(PAD), max, sum, scores }
    }

    /// Copies the task's queries from `qkv`, where the heads of a group are next to each other in a row.
    fn load(&mut self, qkv: &[f32], geometry: &Geometry, segment: &Segment, first: usize, kv_head: usize) {
        let width = geometry.group() * geometry.head_dim;
        for (i, target) in self.q.chunks_exact_mut(width).enumerate() {
            let at = segment.row_at(first + i) * geometry.qkv_cols() + geometry.query(kv_head * geometry.group());
            target.copy_from_slice(&qkv[at..at + width]);
        }
    }

    fn attend(
        &mut self,
        isa: Isa,
        geometry: &Geometry,
        job: &Job,
        kv_head: usize,
        blocks: &Blocks,
        packed: &KvParts<2>,
    ) {
        let (d, group) = (geometry.head_dim, geometry.group());
        let scaling = Scaling { scale: geometry.scale, softcap: geometry.softcap };
        let first_block = geometry.first_visible(job.first) / BLOCK;
        let last_block = (job.first + job.positions - 1) / BLOCK;
        for block in first_block..=last_block {
            let begin = block * BLOCK;
            let index = blocks.index(job.segment, block);
            let (k_t, v) = (packed.part(0, kv_head, index), packed.part(1, kv_head, index));
            for row in (0..self.max.len()).step_by(ROWS) {
                let rows = ROWS.min(self.max.len() - row);
                let position = |i: usize| job.first + (row + i) / group;
                let Some(reach) = Reach::new(geometry, position(0)..position(rows - 1) + 1, begin) else { continue };
                let mut spans = [Span::default(); ROWS];
                if !reach.full {
                    for (i, span) in spans[..rows].iter_mut().enumerate() {
                        *span = Span::new(geometry, position(i), begin);
                    }
                }
                isa.dispatch(Product {
                    c: (&mut self.scores[reach.first..], BLOCK),
                    a: (&self.q[row * d..], [d, 1]),
                    b: (&k_t[reach.first..], BLOCK),
                    sizes: [rows, reach.len(), d],
                    add: false,
                });
                let o = &mut self.o[row * self.o_cols..];
                isa.dispatch(OnlineSoftmax {
                    scaling,
                    reach,
                    spans: &spans[..rows],
                    scores: self.scores,
                    max: &mut self.max[row..],
                    sum: &mut self.sum[row * PAD..],
                    o,
                    o_cols: self.o_cols,
                });
                isa.dispatch(Product {
                    c: (o, self.o_cols),
                    a: (&self.scores[reach.first..], [BLOCK, 1]),
                    b: (&v[reach.first * self.o_cols..], self.o_cols),
                    sizes: [rows, self.o_cols, reach.len()],
                    add: true,
                });
            }
        }
    }
}
