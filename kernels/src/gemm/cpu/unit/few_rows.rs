//! Products of few rows, as in decoding, which spend their time reading the right operand. The rows are transposed, so that there
//! is a vector for each pair of the depth. The right operand is read in place, neither packed nor shuffled: see [`ColumnSums`].
//! While it is read, the lines of the next columns are prefetched.
//!
//! The steps and their pairs come in the same order as with packed operands, and the unit's instruction treats its two operands
//! alike. So the bits are the same as with packed operands.

use super::corner::Corner;
use super::shared::with_shared;
use super::sizes::{PackedSection, Recipe, Shared, Sink, Sizes, in_parallel, part};
use super::{LeftPart, LeftValues, Order, Start, TASKS_PER_THREAD, Tiled, Values, left_terms};
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::unit::amx::TransposedTile;
use crate::cpu::unit::block_sum::LINES;
use crate::cpu::unit::block_sum::{BLOCK, ColumnSums, STEP_DEPTH, STEP_PAIRS, SUMS_BYTES};
use crate::cpu::unit::pack::{self, Element};
use crate::gemm::cpu::scratch::{Area, with_scratch};
use std::arch::x86_64::*;

/// Bytes of a line of 32 bf16 numbers, and of a vector with a pair from each of 16 rows.
const LINE_BYTES: usize = 64;

/// Whether a call is computed this way: there are at most [`BLOCK`] rows, a number of the left operand is one term, and the lines
/// of all operands are along the depth.
pub(super) fn fits(call: &Tiled<'_>) -> bool {
    let of_targets = call.targets.iter().flat_map(|target| &target.sections);
    let mut sections = of_targets.chain(call.downs.iter().map(|down| &down.section));
    left_terms(call.precision) == 1
        && call.rows <= BLOCK
        && call.left.iter().all(|part| part.order == Order::Columns)
        && sections.all(|section| section.right.order == Order::Columns)
}

/// The rows of the left operands, transposed. For each part and each group of up to 16 rows there is a vector for each pair of the
/// depth. On [`Unit::Dot`], the vectors of a group of 8 rows or fewer are half as long.
#[derive(Clone, Copy)]
struct Rows {
    at: Shared,
    count: usize,
    unit: Unit,
}

/// Up to 16 rows.
#[derive(Clone, Copy)]
struct RowGroup {
    first: usize,
    count: usize,
    /// Bytes of the vector of a pair.
    vector_bytes: usize,
}

impl Rows {
    /// Returns where a part begins, given the offset `packed` that it has in a panel of 32 rows.
    fn part(self, packed: usize) -> *mut u8 {
        self.at.at(packed)
    }

    fn groups(self) -> impl Iterator<Item = RowGroup> {
        (0..self.count).step_by(LINES).map(move |first| {
            let count = (self.count - first).min(LINES);
            let half = self.unit == Unit::Dot && count <= LINES / 2;
            RowGroup { first, count, vector_bytes: if half { LINE_BYTES / 2 } else { LINE_BYTES } }
        })
    }

    /// Packs the rows of a part.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `part` holds the rows; `to` has space for their vectors, and nobody else writes there.
    unsafe fn pack(self, part: LeftPart, to: *mut u8) {
        let LeftPart { values, stride, depth, .. } = part;
        // SAFETY: the caller guarantees AVX-512 with bf16, the rows in `values`, and the space at `to`.
        unsafe {
            match values {
                LeftValues::F32(from) => self.transpose(from, stride, depth, to),
                LeftValues::Bf16(from) => self.transpose(from, stride, depth, to),
            }
        }
    }

    /// # Safety
    /// As [`Rows::pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn transpose<E: Element>(self, from: *const E, stride: usize, depth: usize, to: *mut u8) {
        let mut to = to;
        for group in self.groups() {
            for first in (0..depth).step_by(STEP_DEPTH) {
                let len = (depth - first).min(STEP_DEPTH);
                let mut lines = [_mm512_setzero_si512(); LINES];
                for (i, line) in lines.iter_mut().enumerate().take(group.count) {
                    // SAFETY: this reads `len` numbers of row `group.first + i`, which is below `count`.
                    [*line] = unsafe { E::terms(from.wrapping_add((group.first + i) * stride + first), len) };
                }
                for pair in pack::transposed(lines) {
                    // SAFETY: `to` moves by a vector for each pair, and the caller guarantees space for all of them.
                    unsafe {
                        if group.vector_bytes == LINE_BYTES {
                            _mm512_store_si512(to.cast(), pair);
                        } else {
                            _mm256_store_si256(to.cast(), _mm512_castsi512_si256(pair));
                        }
                        to = to.add(group.vector_bytes);
                    }
                }
            }
        }
    }
}

impl Sizes<'_> {
    /// Computes a call that [`fits`].
    pub(super) fn few_rows(&self, cpu: &Cpu, threads: usize) {
        with_shared(self.left_panel, |left| {
            let left = Rows { at: Shared(left), count: self.call.rows, unit: self.call.unit };
            for (part, at) in self.call.left.iter().zip(&self.parts) {
                // SAFETY: the shared memory has space for a panel; the kernel's call has checked the operand's length.
                unsafe { left.pack(*part, left.part(*at)) };
            }
            // SAFETY: the processor has the unit; each update has a part of the panel to itself.
            in_parallel(cpu, threads, self.downs.len(), |down| unsafe { self.down_of_few_rows(down, left) });
            let tasks = self.panels.len().min(TASKS_PER_THREAD * threads);
            in_parallel(cpu, threads, tasks, |task| {
                let own = &self.panels[part(self.panels.len(), tasks, task)];
                // SAFETY: the processor has the unit; the panel was packed above, and each task has different columns.
                with_scratch(|scratch| unsafe {
                    self.call.unit.configure();
                    let sums = sums(&mut scratch.partial);
                    self.targets[own[0].target].ask_for(own[0].col);
                    for panel in own {
                        self.columns(&self.targets[panel.target], panel.col, left, sums);
                    }
                });
            });
        });
    }

    /// Computes the [`Down`](super::Down) product of update `index`, and packs the result as a part after the parts of the rows.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the rows are packed, and nobody else writes this update's part.
    unsafe fn down_of_few_rows(&self, index: usize, left: Rows) {
        let (down, recipe, rows) = (&self.call.downs[index], &self.downs[index], self.call.rows);
        with_scratch(|scratch| {
            let sums = sums(&mut scratch.partial);
            // SAFETY: the caller guarantees that the rows are packed and that only this update writes its part; each `col` is a
            // panel of the recipe; `u` and the scratch hold all rows.
            unsafe {
                self.call.unit.configure();
                recipe.ask_for(0);
                for col in 0..recipe.panels() {
                    self.columns(recipe, col, left, sums);
                }
                let part = down.scaled(0..rows, &mut scratch.left);
                left.pack(part, left.part(self.parts[self.call.left.len() + index]));
            }
        });
    }

    /// Multiplies all rows by a panel of columns.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `col` is a panel of the recipe, `left` holds the rows, and `at` holds a block of sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    unsafe fn columns(&self, recipe: &Recipe<'_>, col: usize, left: Rows, at: *mut f32) {
        let Sink { alpha, start, output } = recipe.sink;
        let first = col * BLOCK;
        let corner = Corner { stride: output.stride, height: self.call.rows, width: (recipe.cols - first).min(BLOCK) };
        // sums that are scaled cannot begin with the output, so they are added to it at the end
        let add = matches!(start, Start::Output) && alpha != 1.0;
        // SAFETY: `col` is a panel of the recipe, so the corner is inside the output, and inside a start matrix, which has the
        // shape of the output.
        unsafe {
            let from = match start {
                Start::Zero => None,
                Start::Output if add => None,
                Start::Row(row) => Some((row.wrapping_add(first), 0)),
                Start::Matrix(matrix) => {
                    corner.load(matrix.wrapping_add(first), at);
                    Some((at.cast_const(), BLOCK))
                }
                Start::Output => {
                    output.at.load(corner, first, at);
                    Some((at.cast_const(), BLOCK))
                }
            };
            for tile in 0..corner.width.div_ceil(LINES) {
                let col = first + tile * LINES;
                for group in left.groups() {
                    let at = at.add(group.first * BLOCK + tile * LINES);
                    let from = from.map(|(from, stride)| (from.add(group.first * stride + tile * LINES), stride));
                    match (left.unit, group.vector_bytes) {
                        (Unit::Amx, _) => recipe.tile::<TransposedTile>(col, left, group, from, at),
                        (Unit::Dot, LINE_BYTES) => recipe.tile::<[__m512; LINES]>(col, left, group, from, at),
                        (Unit::Dot, _) => recipe.tile::<[__m256; LINES]>(col, left, group, from, at),
                    }
                }
            }
            output.at.store(corner, at, alpha, add, first);
        }
    }
}

impl Recipe<'_> {
    /// Computes the sums of a group of rows and the 16 columns from `col` on. The sums begin with the values at `from`, or with
    /// zero if it is `None`. `from` is a pointer and the number of floats from row to row, which is 0 if all rows begin with the
    /// same values.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `left` holds the rows; `at` and `from` hold 16 floats in each of the group's rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    unsafe fn tile<S: ColumnSums>(
        &self,
        col: usize,
        left: Rows,
        group: RowGroup,
        from: Option<(*const f32, usize)>,
        at: *mut f32,
    ) {
        let mut lines = [_mm512_setzero_si512(); LINES];
        // SAFETY: the caller guarantees AVX-512 with bf16, the rows in `left`, and 16 floats in each row of `from` and `at`.
        unsafe {
            if let Some((from, stride)) = from {
                for (row, line) in lines.iter_mut().enumerate().take(group.count) {
                    *line = _mm512_castps_si512(_mm512_loadu_ps(from.add(row * stride)));
                }
                lines = pack::transposed(lines);
            }
            let mut sums = S::of(lines);
            for section in &self.sections {
                // the vectors of earlier groups come first
                let before = group.first * 4 * STEP_PAIRS * section.depth.div_ceil(STEP_DEPTH);
                let left = left.part(section.left_at).cast_const().add(before);
                match section.right.values {
                    Values::Bf16(values) => add_section(&mut sums, section, values, self.cols, col, left),
                    Values::F16(values) => add_section(&mut sums, section, values, self.cols, col, left),
                    Values::F32(values) => add_section(&mut sums, section, values, self.cols, col, left),
                }
            }
            for (row, line) in pack::transposed(sums.lines()).into_iter().enumerate().take(group.count) {
                _mm512_storeu_ps(at.add(row * BLOCK), _mm512_castsi512_ps(line));
            }
        }
    }

    /// Prefetches the first half of a panel's columns, which no earlier product of the task has prefetched.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn ask_for(&self, col: usize) {
        for section in &self.sections {
            let lines = col * BLOCK * section.depth..(col * BLOCK + LINES).min(self.cols) * section.depth;
            match section.right.values {
                Values::Bf16(values) => pack::prefetch(values[lines.clone()].as_ptr(), lines.len()),
                Values::F16(values) => pack::prefetch(values[lines.clone()].as_ptr(), lines.len()),
                Values::F32(values) => pack::prefetch(values[lines.clone()].as_ptr(), lines.len()),
            }
        }
    }
}

/// Adds the products of a section to the sums of the 16 columns from `col` on. The section has `cols` columns.
///
/// # Safety
/// As [`ColumnSums::of`]; `values` are `[cols, depth]`; `left` holds the vectors of the section.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
unsafe fn add_section<E: Element, S: ColumnSums>(
    sums: &mut S,
    section: &PackedSection<'_>,
    values: &[E],
    cols: usize,
    col: usize,
    left: *const u8,
) {
    let depth = section.depth;
    let lines_here = (cols - col).min(LINES);
    let from = values.as_ptr().wrapping_add(col * depth);
    let stride = depth * size_of::<E>();
    let ahead = from.wrapping_add(LINES * depth).cast::<u8>();
    let in_place = if E::IS_BF16 && lines_here == LINES { depth / STEP_DEPTH } else { 0 };
    // SAFETY: `in_place` counts whole steps of 16 lines of the matrix; `left` holds their vectors.
    unsafe { sums.add((from.cast(), stride), left, in_place, STEP_PAIRS, (ahead, stride)) };
    // other steps are copied first: steps of a format other than bf16, steps that are not whole, and all steps if there are fewer
    // than 16 lines
    for step in in_place..depth.div_ceil(STEP_DEPTH) {
        let len = (depth - step * STEP_DEPTH).min(STEP_DEPTH);
        let from = from.wrapping_add(step * STEP_DEPTH);
        let mut copy = [_mm512_setzero_si512(); LINES];
        // SAFETY: this reads `len` numbers of each of the `lines_here` lines, and nothing else; `left` holds the step's vectors.
        unsafe {
            for (i, line) in copy.iter_mut().enumerate() {
                let at = from.wrapping_add(i * depth);
                [*line] = match lines_here == LINES && len == STEP_DEPTH {
                    true => E::all_terms(at),
                    false => E::terms(at, if i < lines_here { len } else { 0 }),
                };
            }
            let left = left.wrapping_add(step * STEP_PAIRS * S::VECTOR_BYTES);
            let ahead = ahead.wrapping_add(step * STEP_DEPTH * size_of::<E>());
            // prefetch the bytes beyond those that `sums.add` prefetches
            let beyond = (len * size_of::<E>()).saturating_sub(LINE_BYTES);
            for i in 0..LINES {
                pack::prefetch(ahead.wrapping_add(i * stride + LINE_BYTES), beyond);
            }
            sums.add((copy.as_ptr().cast(), LINE_BYTES), left, 1, len.div_ceil(2), (ahead, stride));
        }
    }
}

/// Memory for a block of sums.
fn sums(area: &mut Area) -> *mut f32 {
    area.floats(SUMS_BYTES / size_of::<f32>())
}
