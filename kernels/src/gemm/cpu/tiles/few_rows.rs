//! Products of so few rows that reading the right operand is what takes the time, as in decoding: its numbers go from their
//! lines in memory to the sums through registers alone, 16 columns at a time, and the lines of the next columns are asked for
//! meanwhile.
//!
//! The steps come in the order of the packed way, with the same instruction, so the bits are the same.

use super::corner::Corner;
use super::plan::{PackedSection, Plan, Recipe, Shared, Sink, in_parallel, part};
use super::{LeftPart, LeftValues, Order, OutputValues, Start, TASKS_PER_THREAD, Tiled, Values};
use crate::cpu::tiles::microkernel::{BLOCK, STEP_BYTES, STEP_DEPTH, SUMS_BYTES, Unit, dot};
use crate::cpu::tiles::pack::{self, Element, LINES};
use crate::device::Cpu;
use crate::gemm::cpu::scratch::{self, Area, with_scratch};
use std::arch::x86_64::*;

/// Rows whose sums are in registers at once, beside 16 vectors of the right operand.
const GROUP: usize = 8;
/// Bytes of a step of one group of rows.
const GROUP_BYTES: usize = GROUP * LINE;
/// Bytes of a row's part of a step.
const LINE: usize = 64;

/// Whether a call is computed this way: the vectors read a number where it lies, and it lies along the depth.
pub(super) fn fits(call: &Tiled<'_>) -> bool {
    let of_targets = call.targets.iter().flat_map(|target| &target.sections);
    let mut sections = of_targets.chain(call.downs.iter().map(|down| &down.section));
    call.unit == Unit::Dot
        && call.rows <= BLOCK
        && call.left.iter().all(|part| part.order == Order::Columns)
        && sections.all(|section| section.right.order == Order::Columns)
}

/// The rows, packed: their parts, and in a part the steps, and in a step the rows, so many that they fill whole groups.
#[derive(Clone, Copy)]
struct Rows {
    at: Shared,
    groups: usize,
}

impl Rows {
    /// Where the part begins that begins at `packed` in a panel of 32 rows.
    fn part(self, packed: usize) -> *mut u8 {
        self.at.at(packed / STEP_BYTES * self.groups * GROUP_BYTES)
    }

    /// Packs a part.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the part holds `rows` rows, `to` the groups, and nobody else writes there.
    unsafe fn pack(self, part: LeftPart, rows: usize, to: *mut u8) {
        let LeftPart { values, stride, depth, .. } = part;
        // SAFETY: the caller's contract.
        unsafe {
            match values {
                LeftValues::F32(from) => self.pack_lines(from, stride, depth, rows, to),
                LeftValues::Bf16(from) => self.pack_lines(from, stride, depth, rows, to),
            }
        }
    }

    /// # Safety
    /// As [`Rows::pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_lines<E: Element>(self, from: *const E, stride: usize, depth: usize, rows: usize, to: *mut u8) {
        for row in 0..self.groups * GROUP {
            for step in 0..depth.div_ceil(STEP_DEPTH) {
                let first = step * STEP_DEPTH;
                let len = if row < rows { (depth - first).min(STEP_DEPTH) } else { 0 };
                // SAFETY: `len` numbers of a row; a line of the part.
                unsafe {
                    let [line] = E::terms(from.wrapping_add(row * stride + first), len);
                    let to = to.add(step * self.groups * GROUP_BYTES + row * LINE);
                    _mm512_store_si512(to.cast(), line);
                }
            }
        }
    }
}

impl Plan<'_> {
    /// Computes a call that [`fits`].
    pub(super) fn few_rows(&self, cpu: &Cpu, threads: usize) {
        scratch::with_shared(self.left_panel, |left| {
            let left = Rows { at: Shared(left), groups: self.call.rows.div_ceil(GROUP) };
            for (part, at) in self.call.left.iter().zip(&self.parts) {
                // SAFETY: the shared memory holds a panel; the contract of the call checked the operand's length.
                unsafe { left.pack(*part, self.call.rows, left.part(*at)) };
            }
            // SAFETY: the processor has the unit; each update has a part of the panel to itself.
            in_parallel(cpu, threads, self.downs.len(), |down| unsafe { self.down_of_few_rows(down, left) });
            let tasks = self.panels.len().min(TASKS_PER_THREAD * threads);
            in_parallel(cpu, threads, tasks, |task| {
                let own = &self.panels[part(self.panels.len(), tasks, task)];
                // SAFETY: the processor has the unit; the panel was packed above, and each task has columns of its own.
                with_scratch(|scratch| unsafe {
                    let sums = sums(&mut scratch.partial);
                    self.targets[own[0].target].ask_for(own[0].col);
                    for panel in own {
                        self.columns(self.sink(panel.target), &self.targets[panel.target], panel.col, left, sums);
                    }
                });
            });
        });
    }

    /// Computes an update's product of the rows, and packs it behind them.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the rows are packed, and nobody else writes this update's part.
    unsafe fn down_of_few_rows(&self, index: usize, left: Rows) {
        let (down, recipe, rows) = (&self.call.downs[index], &self.downs[index], self.call.rows);
        with_scratch(|scratch| {
            let sums = sums(&mut scratch.partial);
            // SAFETY: the caller's contract; the panels are the recipe's, and `between` and the scratch hold all rows.
            unsafe {
                recipe.ask_for(0);
                for col in 0..recipe.panels() {
                    self.columns(Sink::of(down), recipe, col, left, sums);
                }
                let scaled = scratch.left.floats(rows * down.rank);
                for i in 0..rows * down.rank {
                    *scaled.add(i) = down.scale * *down.between.add(i);
                }
                let values = LeftValues::F32(scaled);
                let part = LeftPart { values, stride: down.rank, depth: down.rank, order: Order::Columns };
                left.pack(part, rows, left.part(self.parts[self.call.left.len() + index]));
            }
        });
    }

    /// All rows by a panel of columns.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the panel is the recipe's, `left` holds the rows, `sums` a block.
    unsafe fn columns(&self, sink: Sink, recipe: &Recipe<'_>, col: usize, left: Rows, sums: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            match left.groups {
                1 => self.columns_of_groups::<1>(sink, recipe, col, left, sums),
                2 => self.columns_of_groups::<2>(sink, recipe, col, left, sums),
                3 => self.columns_of_groups::<3>(sink, recipe, col, left, sums),
                _ => self.columns_of_groups::<4>(sink, recipe, col, left, sums),
            }
        }
    }

    /// As [`Plan::columns`], for `G` groups of rows.
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn columns_of_groups<const G: usize>(
        &self,
        Sink { alpha, start, output }: Sink,
        recipe: &Recipe<'_>,
        col: usize,
        left: Rows,
        at: *mut f32,
    ) {
        let first = col * BLOCK;
        let corner = Corner { stride: output.stride, height: self.call.rows, width: (recipe.cols - first).min(BLOCK) };
        // scaled sums are added to the output at the end
        let add = matches!(start, Start::Output) && alpha != 1.0;
        // SAFETY: the caller's contract: the corner is one of the output's, and of a matrix like it.
        unsafe {
            let from = match (start, output.at) {
                (Start::Zero, _) => None,
                (Start::Output, _) if add => None,
                (Start::Row(row), _) => Some((row.wrapping_add(first), 0)),
                (Start::Matrix(matrix), _) => {
                    corner.load(matrix.wrapping_add(first), at);
                    Some((at.cast_const(), BLOCK))
                }
                (Start::Output, OutputValues::F32(output)) => {
                    corner.load(output.wrapping_add(first), at);
                    Some((at.cast_const(), BLOCK))
                }
                (Start::Output, OutputValues::Bf16(output)) => {
                    corner.load(output.wrapping_add(first), at);
                    Some((at.cast_const(), BLOCK))
                }
            };
            for tile in 0..corner.width.div_ceil(LINES) {
                let mut sums = [[_mm512_setzero_ps(); GROUP]; G];
                if let Some((from, stride)) = from {
                    for (row, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(from.add(row * stride + tile * LINES));
                    }
                }
                for section in &recipe.sections {
                    let left = left.part(section.left_at).cast_const();
                    let col = first + tile * LINES;
                    match section.right.values {
                        Values::Bf16(values) => add_section(&mut sums, section, values, recipe.cols, col, left),
                        Values::F16(values) => add_section(&mut sums, section, values, recipe.cols, col, left),
                        Values::F32(values) => add_section(&mut sums, section, values, recipe.cols, col, left),
                    }
                }
                for (row, sum) in sums.as_flattened().iter().enumerate() {
                    _mm512_store_ps(at.add(row * BLOCK + tile * LINES), *sum);
                }
            }
            match output.at {
                OutputValues::F32(output) => corner.store(at, alpha, add, output.wrapping_add(first)),
                OutputValues::Bf16(output) => corner.store_bf16(at, alpha, add, output.wrapping_add(first)),
            }
        }
    }
}

impl Recipe<'_> {
    /// Asks for the first half of a panel's columns, which nobody has asked for on a task's way.
    fn ask_for(&self, col: usize) {
        for section in &self.sections {
            let lines = col * BLOCK * section.depth..(col * BLOCK + LINES).min(self.cols) * section.depth;
            match section.right.values {
                Values::Bf16(values) => prefetch(&values[lines]),
                Values::F16(values) => prefetch(&values[lines]),
                Values::F32(values) => prefetch(&values[lines]),
            }
        }
    }
}

/// Adds a section of the depth to the sums of `G` groups of rows by 16 columns from `col` on of `cols`.
///
/// # Safety
/// The processor has AVX-512 with bf16; `values` are `[cols, depth]`; `left` holds the section's part of a packed panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_section<E: Element, const G: usize>(
    sums: &mut [[__m512; GROUP]; G],
    section: &PackedSection<'_>,
    values: &[E],
    cols: usize,
    col: usize,
    left: *const u8,
) {
    let depth = section.depth;
    let lines_here = (cols - col).min(LINES);
    let from = values.as_ptr().wrapping_add(col * depth);
    for step in 0..depth.div_ceil(STEP_DEPTH) {
        let len = (depth - step * STEP_DEPTH).min(STEP_DEPTH);
        let from = from.wrapping_add(step * STEP_DEPTH);
        let mut lines = [_mm512_setzero_si512(); LINES];
        // SAFETY: lines of the matrix from an element on that has `len` after it, none of those beyond.
        unsafe {
            if lines_here == LINES && len == STEP_DEPTH {
                for (i, line) in lines.iter_mut().enumerate() {
                    [*line] = E::all_terms(from.add(i * depth));
                }
            } else {
                for (i, line) in lines.iter_mut().enumerate() {
                    let len = if i < lines_here { len } else { 0 };
                    [*line] = E::terms(from.wrapping_add(i * depth), len);
                }
            }
        }
        for i in 0..LINES {
            pack::prefetch(from.wrapping_add((LINES + i) * depth), len);
        }
        let left = left.wrapping_add(step * G * GROUP_BYTES);
        for (pair, columns) in pack::transposed(lines).into_iter().enumerate() {
            for (group, sums) in sums.iter_mut().enumerate() {
                let left = left.wrapping_add(group * GROUP_BYTES + 4 * pair);
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a pair of a line of the panel.
                    let row = unsafe { _mm512_set1_epi32(*left.add(i * LINE).cast()) };
                    *sum = _mm512_dpbf16_ps(*sum, dot::bf16s(row), dot::bf16s(columns));
                }
            }
        }
    }
}

/// Asks for all of `values`.
fn prefetch<E>(values: &[E]) {
    for line in (0..size_of_val(values)).step_by(64) {
        // SAFETY: asking is no access.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_byte_add(line).cast()) };
    }
}

/// Memory for a block of sums.
fn sums(area: &mut Area) -> *mut f32 {
    area.floats(SUMS_BYTES / size_of::<f32>())
}
