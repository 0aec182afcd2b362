//! The products on the unit that multiplies bf16. On AMX, products of f32 run on it too.
//!
//! The unit multiplies bf16, as [`Precision::Bf16`] asks. For [`Precision::F32`] each operand is a sum of bf16 terms, and each
//! term rounds what the terms before it left. A bf16 weight is one term, an f16 is two, and an f32 is three, which hold all its
//! 24 bits. The products of terms that f32 would lose anyway are left out. So a layer with bf16 weights costs three products of
//! the unit, and its results differ from those in f32 only in the last bits; see [`sizes`].
//!
//! A [`Tiled`] call is several sums over the depth that share their rows: the layers of a stack, each with an adapter's update.
//! The depth of a sum is made of sections, one after the other: the layer's own, and the rank of its update, whose left operand
//! is itself a product of the rows ([`Down`]). All sections are packed side by side, so that an update is only more steps of the
//! layer's sum, and the outputs are written once.
//!
//! Usually tasks are blocks of rows: all threads first pack the right operands, up to 32 MiB at a time, and each task then packs
//! its own rows and keeps them in the second-level cache while the right panels pass. If there are more column panels than row
//! panels, and the packed rows are small or too few to keep all threads busy ([`columns_are_apart`]), the rows are packed once
//! and tasks are ranges of columns. For very few rows in bf16, the right operand is not packed at all ([`few_rows`]).
//!
//! The bits of an output element are a function of its own operands and of the depth, as in the products on vectors: the steps
//! are added in one order to f32 sums, however they are cut into blocks.

mod calls;
mod corner;
mod few_rows;
mod shared;
mod sizes;

pub(super) use calls::{dw, dx, forward, stack_dx, stack_forward, stack_forward_packed};

use super::{Order, Right, Values};
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::BLOCK;
use crate::device::Packed;
use crate::{FloatSlice, FloatSliceMut, Precision};
use half::bf16;
use sizes::Sizes;

/// Bytes of a task's packed rows. They stay in a second-level cache of 2 MiB while the right panels pass through it.
const LEFT_BYTES: usize = 600 << 10;
/// Bytes of the right operand that are packed at a time.
const RIGHT_BYTES: usize = 32 << 20;
/// A matrix with a side of at most this is narrow. For matrices from 64 x 64 to 64 x 192, the vectors are at least as fast as the
/// unit with three terms. For 128 x 128, the unit is 1.7 times as fast as the vectors.
const NARROW: usize = 64;
/// Number of tasks for each thread. There are several, so that other threads can take over tasks of a thread that loses its core
/// for a while.
const TASKS_PER_THREAD: usize = 2;
/// Below this many multiplications (each weight counts 16 more, for its packing) waking a thread costs more than it saves.
const PARALLEL_WORK: usize = 4 << 20;

/// Returns the unit, if there is one and it is faster than multiply-adds for matrices of these sides. In f32 it does not pay to
/// pack a narrow matrix in terms: an adapter's products are up to three times faster on vectors. And if the unit itself is
/// vectors, three terms are slower than one multiply-add. The number of rows of the input does not matter, so that a row's bits do
/// not depend on the other rows.
pub(super) fn fitting(cpu: &Cpu, precision: Precision, matrices: impl IntoIterator<Item = [usize; 2]>) -> Option<Unit> {
    let unit = cpu.isa().unit()?;
    let fits = |[one, other]: [usize; 2]| {
        let narrow = one.min(other);
        narrow > 0 && (precision == Precision::Bf16 || (unit.terms_of_f32().is_some() && narrow > NARROW))
    };
    matrices.into_iter().all(fits).then_some(unit)
}

/// Sums that share their rows.
pub(in crate::gemm::cpu) struct Tiled<'a> {
    pub(super) unit: Unit,
    pub(super) rows: usize,
    pub(super) precision: Precision,
    /// Left operands that are read from memory.
    pub(super) left: Vec<LeftPart>,
    /// Left operands that are computed from those in `left`. They follow `left` in the numbering of parts.
    pub(super) downs: Vec<Down<'a>>,
    pub(super) targets: Vec<Target<'a>>,
}

/// A left operand in memory. It is a pointer because it may be scratch that a task fills itself: see [`Down::scaled`].
#[derive(Clone, Copy)]
pub(super) struct LeftPart {
    pub(super) values: LeftValues,
    /// Elements from one line to the next.
    pub(super) stride: usize,
    pub(super) depth: usize,
    /// [`Order::Columns`] for lines along the depth, `[rows, depth]`; [`Order::Rows`] for `[depth, rows]`.
    pub(super) order: Order,
}

#[derive(Clone, Copy)]
pub(super) enum LeftValues {
    F32(*const f32),
    Bf16(*const bf16),
}

/// `u = alpha * left · right`. Its values, times `scale`, are the left operand of further sections.
pub(super) struct Down<'a> {
    pub(super) section: Section<'a>,
    pub(super) rank: usize,
    pub(super) alpha: f32,
    pub(super) scale: f32,
    /// `[rows, rank]`
    pub(super) u: *mut f32,
}

/// `output = start + alpha * Σ_section left · right`
pub(super) struct Target<'a> {
    pub(super) cols: usize,
    pub(super) sections: Vec<Section<'a>>,
    pub(super) alpha: f32,
    pub(super) start: Start,
    pub(super) output: Output,
}

/// A part of the depth: the number of its left part, and its right operand.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) part: usize,
    pub(super) right: Right<'a>,
}

/// What a sum begins with.
#[derive(Clone, Copy)]
pub(super) enum Start {
    Zero,
    /// The output's own values.
    Output,
    /// A matrix with the shape and the stride of the output.
    Matrix(*const f32),
    /// One row for all rows, padded to whole panels of columns.
    Row(*const f32),
}

/// The first element of an output, and its stride.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) at: OutputValues,
    /// Elements from row to row.
    pub(super) stride: usize,
}

#[derive(Clone, Copy)]
pub(super) enum OutputValues {
    F32(*mut f32),
    Bf16(*mut bf16),
}

impl From<FloatSlice<'_>> for LeftValues {
    fn from(values: FloatSlice<'_>) -> LeftValues {
        match values {
            FloatSlice::F32(values) => LeftValues::F32(values.cpu_or_none().as_ptr()),
            FloatSlice::Bf16(values) => LeftValues::Bf16(values.cpu_or_none().as_ptr()),
        }
    }
}

impl LeftValues {
    /// Returns the values from element `first` on.
    pub(super) fn skip(self, first: usize) -> LeftValues {
        match self {
            LeftValues::F32(at) => LeftValues::F32(at.wrapping_add(first)),
            LeftValues::Bf16(at) => LeftValues::Bf16(at.wrapping_add(first)),
        }
    }
}

impl From<FloatSliceMut<'_>> for OutputValues {
    fn from(values: FloatSliceMut<'_>) -> OutputValues {
        match values {
            FloatSliceMut::F32(values) => OutputValues::F32(values.cpu_or_none().as_mut_ptr()),
            FloatSliceMut::Bf16(values) => OutputValues::Bf16(values.cpu_or_none().as_mut_ptr()),
        }
    }
}

impl OutputValues {
    /// Returns the values from element `first` on.
    pub(super) fn skip(self, first: usize) -> OutputValues {
        match self {
            OutputValues::F32(at) => OutputValues::F32(at.wrapping_add(first)),
            OutputValues::Bf16(at) => OutputValues::Bf16(at.wrapping_add(first)),
        }
    }
}

// SAFETY: tasks read operands that nobody else writes meanwhile, and write disjoint rows or columns of the outputs.
unsafe impl Sync for Tiled<'_> {}

impl Tiled<'_> {
    /// Computes the sums. Every matrix must be [`fitting`].
    pub(in crate::gemm::cpu) fn run(&self, cpu: &Cpu) {
        let Some((sizes, way)) = self.sizes(cpu, true) else { return };
        match way {
            Way::FewRows(threads) => sizes.few_rows(cpu, threads),
            Way::ColumnsApart(threads) => sizes.columns_apart(cpu, threads),
            Way::RowsApart(threads) => sizes.rows_apart(cpu, threads),
        }
    }

    /// Returns the bytes that the threads keep for packing after [`Tiled::run`] with these rows or fewer. The operands need not
    /// exist.
    pub(in crate::gemm::cpu) fn packed(mut self, cpu: &Cpu) -> Packed {
        let rows = self.rows;
        let Some((sizes, _)) = self.sizes(cpu, false) else { return Packed::default() };
        let panels = [
            // the largest number of row panels for which `columns_are_apart` can hold, by each of its two conditions
            sizes.panels.len().saturating_sub(1),
            (LEFT_BYTES / sizes.left_panel.max(1)).max(TASKS_PER_THREAD * cpu.threads() - 1),
        ];
        let on_one_thread = ((PARALLEL_WORK - 1) / self.work_of_row()).saturating_sub(16);
        let fewer = [BLOCK, panels[0].min(panels[1]) * BLOCK, on_one_thread];
        let mut packed = Packed::default();
        for rows in fewer.map(|fewer| fewer.min(rows)).into_iter().chain([rows]) {
            self.rows = rows;
            packed = self.sizes(cpu, false).map_or(packed, |(sizes, way)| packed.and(sizes.packed(way)));
        }
        packed
    }

    /// Returns the number of multiplications of a row, at least 1.
    fn work_of_row(&self) -> usize {
        let of_target = |target: &Target<'_>| {
            let depth: usize = target.sections.iter().map(|section| self.depth(section.part)).sum();
            target.cols.saturating_mul(depth)
        };
        self.targets.iter().map(of_target).fold(0, usize::saturating_add).max(1)
    }

    /// Decides how the call is computed; prepares the products if `with_products`. `None` if there is nothing to do.
    fn sizes(&self, cpu: &Cpu, with_products: bool) -> Option<(Sizes<'_>, Way)> {
        let cols: usize = self.targets.iter().map(|target| target.cols).sum();
        if self.rows == 0 || cols == 0 {
            return None;
        }
        let few_rows = few_rows::fits(self);
        let sizes = Sizes::new(self, with_products && !few_rows);
        let work = (self.rows + 16).saturating_mul(self.work_of_row());
        let threads = if work < PARALLEL_WORK { 1 } else { cpu.threads() };
        let way = if few_rows {
            Way::FewRows(threads)
        } else if columns_are_apart(sizes.row_panels, sizes.left_panel, sizes.panels.len(), threads) {
            Way::ColumnsApart(threads)
        } else {
            Way::RowsApart(threads)
        };
        Some((sizes, way))
    }

    /// Returns the depth of a part of the left operands.
    fn depth(&self, part: usize) -> usize {
        match part.checked_sub(self.left.len()) {
            None => self.left[part].depth,
            Some(down) => self.downs[down].rank,
        }
    }
}

/// How a call is cut into tasks, and on how many threads they run.
#[derive(Clone, Copy)]
enum Way {
    /// Tasks are ranges of columns, and the right operand is not packed.
    FewRows(usize),
    /// Tasks are ranges of columns, which share the packed rows.
    ColumnsApart(usize),
    /// Tasks are blocks of rows, which share the packed columns.
    RowsApart(usize),
}

/// Whether tasks are ranges of columns that share the packed rows, rather than blocks of rows.
fn columns_are_apart(row_panels: usize, left_panel: usize, panels: usize, threads: usize) -> bool {
    let few_rows = row_panels * left_panel <= LEFT_BYTES || row_panels < TASKS_PER_THREAD * threads;
    panels > row_panels && few_rows
}

/// Returns the row panels of a task that packs its own rows.
fn panels_per_task(row_panels: usize, left_panel: usize, threads: usize) -> usize {
    (LEFT_BYTES / left_panel).clamp(1, row_panels.div_ceil(TASKS_PER_THREAD * threads).max(1))
}

/// Returns how many terms a number of the left operand has.
fn left_terms(precision: Precision) -> usize {
    match precision {
        Precision::Bf16 => 1,
        Precision::F32 => 3,
    }
}
