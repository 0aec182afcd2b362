//! Attention on the unit that multiplies bf16. The blocks of positions are those of the f32 version, packed as the unit's tiles
//! read them.
//!
//! A block of 64 rows is packed in one or both of two forms: along the head, for products whose depth is the head (scores,
//! `d_o·v`), and across it, for products whose depth is the rows (`p·v` and the gradients). A product covers 32 places of the
//! depth at once, and the unit chooses the order in which it adds them. So a row's position decides its place in a block, and
//! places without a row are zero.

mod backward;
mod forward;

pub(super) use backward::{backward, scratch as backward_scratch};
pub(super) use forward::{forward, scratch as forward_scratch};

use super::blocks::{BLOCK, Blocks, Source};
use crate::arena::taken;
use crate::attention::{Geometry, Segment};
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::Disjoint;
use crate::cpu::unit::block_sum::{STEP_BYTES, STEP_DEPTH};
use crate::cpu::unit::pack::{self, Matrix, Role};
use crate::{Buffer, Device, Result};
use half::bf16;
use std::ops::Range;

/// Steps of 32 rows in a block.
const BLOCK_STEPS: usize = BLOCK / STEP_DEPTH;
/// Bytes of a panel of 32 columns whose depth is a block of rows.
const ACROSS_PANEL: usize = BLOCK_STEPS * STEP_BYTES;

/// Which way a block of rows is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Panels of 32 rows whose depth is the head.
    Along,
    /// Panels of 32 of the head's columns whose depth is the rows.
    Across,
}

/// How a head's columns are cut.
#[derive(Debug, Clone, Copy)]
struct HeadSizes {
    dim: usize,
    /// Number of steps of 32 in the head's depth, which is also the number of panels of its columns.
    steps: usize,
}

impl HeadSizes {
    fn new(geometry: &Geometry) -> HeadSizes {
        HeadSizes { dim: geometry.head_dim, steps: geometry.head_dim.div_ceil(STEP_DEPTH) }
    }

    /// The head's columns, with those that pad the last panel.
    fn padded(self) -> usize {
        self.steps * STEP_DEPTH
    }

    /// Bytes of a block in one form. Both forms have this size.
    fn form_bytes(self) -> usize {
        self.steps * ACROSS_PANEL
    }

    /// Bytes of a panel of 32 rows.
    fn along_panel(self) -> usize {
        self.steps * STEP_BYTES
    }

    /// Floats that hold a block of rows in bf16.
    fn rows_len(self) -> usize {
        (BLOCK * self.dim).div_ceil(2)
    }

    /// Packs a block of rows.
    ///
    /// # Safety
    /// `rows` is `[BLOCK, dim]`, `to` holds [`HeadSizes::form_bytes`] at a multiple of 64; the processor has the unit.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack(self, rows: *const bf16, form: Form, role: Role, to: *mut u8) {
        // SAFETY: the caller promises that `rows` is `[BLOCK, dim]`, that `to` is aligned and holds `form_bytes`, which is enough
        // for the panels of either form, and that the processor has the unit.
        unsafe {
            match form {
                Form::Along => {
                    let matrix = Matrix { at: rows, stride: self.dim, side: BLOCK, depth: self.dim };
                    pack::along_depth::<bf16, 1>(matrix, role, 0..BLOCK_STEPS, to, self.along_panel());
                }
                Form::Across => {
                    let matrix = Matrix { at: rows, stride: self.dim, side: self.dim, depth: BLOCK };
                    pack::across_depth::<bf16, 1>(matrix, role, 0..self.steps, to, ACROSS_PANEL);
                }
            }
        }
    }
}

/// Copies the rows of a segment's positions to their places in a block that begins at `begin`. The other places are zero.
fn gather(
    to: &mut [bf16],
    segment: &Segment,
    positions: Range<usize>,
    begin: usize,
    row: impl Fn(usize) -> Range<usize>,
    from: &[bf16],
) {
    let dim = to.len() / BLOCK;
    to[..(positions.start - begin) * dim].fill(bf16::ZERO);
    for position in positions.clone() {
        to[(position - begin) * dim..][..dim].copy_from_slice(&from[row(segment.row_at(position))]);
    }
    to[(positions.end - begin) * dim..].fill(bf16::ZERO);
}

/// Blocks of keys and values of all key-value heads, in the forms that a pass reads.
struct PackedBlocks {
    data: Buffer<bf16>,
    blocks: usize,
    head: HeadSizes,
    forms: usize,
}

/// Returns the bytes of [`PackedBlocks`] in `forms` forms, and the bytes that packing needs in addition.
fn packed_bytes(cpu: &Cpu, geometry: &Geometry, blocks: &Blocks, forms: usize) -> [usize; 2] {
    let head = HeadSizes::new(geometry);
    let tasks = blocks.len() * geometry.num_key_value_heads;
    [taken(tasks * forms * head.form_bytes()), cpu.bytes_of_tasks(tasks, head.rows_len())]
}

impl PackedBlocks {
    fn new<const FORMS: usize>(
        device: &Device,
        cpu: &Cpu,
        (geometry, segments, blocks): (&Geometry, &[Segment], &Blocks),
        qkv: &[bf16],
        forms: [(Source, Form, Role); FORMS],
    ) -> Result<PackedBlocks> {
        let head = HeadSizes::new(geometry);
        let (kv_heads, cols) = (geometry.num_key_value_heads, geometry.qkv_cols());
        let block_len = FORMS * head.form_bytes() / size_of::<bf16>();
        let mut data = device.alloc::<bf16>("attention.packed", blocks.len() * kv_heads * block_len)?;
        let all = Disjoint::new(data.view_mut().cpu());
        cpu.for_each_task("attention.packed", blocks.len() * kv_heads, head.rows_len(), |task, scratch| {
            let (kv_head, index) = (task / blocks.len(), task % blocks.len());
            let (segment, block) = blocks.owner(index);
            let (segment, begin) = (&segments[segment], block * BLOCK);
            let rows = &mut bytemuck::cast_slice_mut::<f32, bf16>(scratch)[..BLOCK * head.dim];
            // SAFETY: `task` is handed out once, so nobody else borrows these `block_len` elements.
            let target = unsafe { all.slice(task * block_len..(task + 1) * block_len) };
            let mut gathered = None;
            for ((source, form, role), to) in forms.iter().zip(target.chunks_exact_mut(block_len / FORMS)) {
                if gathered != Some(*source) {
                    let first = source.first(geometry, kv_head);
                    let positions = begin..segment.positions().min(begin + BLOCK);
                    let place = |row: usize| row * cols + first..row * cols + first + head.dim;
                    gather(rows, segment, positions, begin, place, qkv);
                    gathered = Some(*source);
                }
                // SAFETY: `forward` and `backward` call `new` with a unit that was found; `rows` is a block of rows; the place of
                // its form is at a multiple of 64 bytes, because the buffer begins at one and forms are whole steps.
                unsafe { head.pack(rows.as_ptr(), *form, *role, to.as_mut_ptr().cast()) };
            }
        })?;
        Ok(PackedBlocks { data, blocks: blocks.len(), head, forms: FORMS })
    }

    /// Returns where a form of a packed block begins.
    fn form(&self, kv_head: usize, index: usize, form: usize) -> *const u8 {
        let block = (kv_head * self.blocks + index) * self.forms + form;
        let at = block * self.head.form_bytes() / size_of::<bf16>();
        self.data.view().cpu()[at..].as_ptr().cast()
    }
}
