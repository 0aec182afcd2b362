//! Products of so few rows that reading the right operand is what takes the time, as in decoding. The lanes of a vector are the
//! rows: the rows lie turned, a vector for each pair of the depth, and the right operand's pairs are repeated in all lanes as
//! they are read where they lie, so that nothing is packed nor shuffled on their way. The lines of the next columns are asked for
//! meanwhile.
//!
//! The steps come in the order of the packed way, with the same instruction, so the bits are the same.

use super::corner::Corner;
use super::plan::{PackedSection, Plan, Recipe, Shared, Sink, in_parallel, part};
use super::{LeftPart, LeftValues, Order, OutputValues, Start, TASKS_PER_THREAD, Tiled, Values};
use crate::cpu::tiles::microkernel::{BLOCK, STEP_DEPTH, SUMS_BYTES, Unit, dot};
use crate::cpu::tiles::pack::{self, Element, LINES};
use crate::device::Cpu;
use crate::gemm::cpu::scratch::{self, Area, with_scratch};
use std::arch::x86_64::*;

/// Most rows in the lanes of one vector.
const LANES: usize = 16;
/// Pairs of a step.
const PAIRS: usize = STEP_DEPTH / 2;
/// Bytes of 32 numbers.
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

/// The rows, turned: their parts, in a part 16 rows after the other, and of those a vector for each pair of the depth. Where
/// 8 rows or fewer are left, the vectors are half as long.
#[derive(Clone, Copy)]
struct Rows {
    at: Shared,
    count: usize,
}

/// Up to 16 rows of a part.
#[derive(Clone, Copy)]
struct Lanes {
    /// The first of them.
    first: usize,
    count: usize,
}

impl Lanes {
    /// Bytes of a pair's vector.
    fn bytes(self) -> usize {
        if self.count <= LANES / 2 { LINE / 2 } else { LINE }
    }
}

impl Rows {
    /// Where the part begins that begins at `packed` in a panel of 32 rows.
    fn part(self, packed: usize) -> *mut u8 {
        self.at.at(packed)
    }

    fn lanes(self) -> impl Iterator<Item = Lanes> {
        let count = self.count;
        (0..count).step_by(LANES).map(move |first| Lanes { first, count: (count - first).min(LANES) })
    }

    /// Packs a part.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the part holds the rows, `to` their vectors, and nobody else writes there.
    unsafe fn pack(self, part: LeftPart, to: *mut u8) {
        let LeftPart { values, stride, depth, .. } = part;
        // SAFETY: the caller's contract.
        unsafe {
            match values {
                LeftValues::F32(from) => self.turn(from, stride, depth, to),
                LeftValues::Bf16(from) => self.turn(from, stride, depth, to),
            }
        }
    }

    /// # Safety
    /// As [`Rows::pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn turn<E: Element>(self, from: *const E, stride: usize, depth: usize, to: *mut u8) {
        let mut to = to;
        for lanes in self.lanes() {
            for first in (0..depth).step_by(STEP_DEPTH) {
                let len = (depth - first).min(STEP_DEPTH);
                let mut lines = [_mm512_setzero_si512(); LINES];
                for (i, line) in lines.iter_mut().enumerate().take(lanes.count) {
                    // SAFETY: `len` numbers of a row.
                    [*line] = unsafe { E::terms(from.wrapping_add((lanes.first + i) * stride + first), len) };
                }
                for pair in pack::transposed(lines) {
                    // SAFETY: a vector of the part.
                    unsafe {
                        if lanes.bytes() == LINE {
                            _mm512_store_si512(to.cast(), pair);
                        } else {
                            _mm256_store_si256(to.cast(), _mm512_castsi512_si256(pair));
                        }
                        to = to.add(lanes.bytes());
                    }
                }
            }
        }
    }
}

impl Plan<'_> {
    /// Computes a call that [`fits`].
    pub(super) fn few_rows(&self, cpu: &Cpu, threads: usize) {
        scratch::with_shared(self.left_panel, |left| {
            let left = Rows { at: Shared(left), count: self.call.rows };
            for (part, at) in self.call.left.iter().zip(&self.parts) {
                // SAFETY: the shared memory holds a panel; the contract of the call checked the operand's length.
                unsafe { left.pack(*part, left.part(*at)) };
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
                left.pack(part, left.part(self.parts[self.call.left.len() + index]));
            }
        });
    }

    /// All rows by a panel of columns.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; the panel is the recipe's, `left` holds the rows, `at` a block of sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn columns(
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
                let col = first + tile * LINES;
                for lanes in left.lanes() {
                    let at = at.add(lanes.first * BLOCK + tile * LINES);
                    let from = from.map(|(from, stride)| (from.add(lanes.first * stride + tile * LINES), stride));
                    match lanes.bytes() {
                        LINE => recipe.tile::<__m512>(col, left, lanes, from, at),
                        _ => recipe.tile::<__m256>(col, left, lanes, from, at),
                    }
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
    /// The sums of some rows by the 16 columns from `col` on, which begin with `from`, 32 floats or none from row to row, or
    /// with zero.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16; `left` holds the rows, `at` rows of 32 floats.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile<V: Vector>(
        &self,
        col: usize,
        left: Rows,
        lanes: Lanes,
        from: Option<(*const f32, usize)>,
        at: *mut f32,
    ) {
        let mut lines = [_mm512_setzero_si512(); LINES];
        // SAFETY: the caller's contract.
        unsafe {
            if let Some((from, stride)) = from {
                for (row, line) in lines.iter_mut().enumerate().take(lanes.count) {
                    *line = _mm512_castps_si512(_mm512_loadu_ps(from.add(row * stride)));
                }
                lines = pack::transposed(lines);
            }
            let mut sums = [V::of(_mm512_setzero_si512()); LINES];
            for (sum, line) in sums.iter_mut().zip(lines) {
                *sum = V::of(line);
            }
            for section in &self.sections {
                // the vectors of the rows before lie before
                let before = lanes.first * 4 * PAIRS * section.depth.div_ceil(STEP_DEPTH);
                let left = left.part(section.left_at).cast_const().add(before);
                match section.right.values {
                    Values::Bf16(values) => add_section(&mut sums, section, values, self.cols, col, left),
                    Values::F16(values) => add_section(&mut sums, section, values, self.cols, col, left),
                    Values::F32(values) => add_section(&mut sums, section, values, self.cols, col, left),
                }
            }
            for (line, sum) in lines.iter_mut().zip(sums) {
                *line = sum.whole();
            }
            for (row, line) in pack::transposed(lines).into_iter().enumerate().take(lanes.count) {
                _mm512_storeu_ps(at.add(row * BLOCK), _mm512_castsi512_ps(line));
            }
        }
    }

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

/// Rows in the lanes of a vector: 8 or 16 of them.
trait Vector: Copy {
    /// The first lanes.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16.
    unsafe fn of(lanes: __m512i) -> Self;
    /// With zeros behind.
    ///
    /// # Safety
    /// As [`Vector::of`].
    unsafe fn whole(self) -> __m512i;
    /// The pairs of all lanes.
    ///
    /// # Safety
    /// As [`Vector::of`]; `at` points at them.
    unsafe fn load(at: *const u8) -> Self;
    /// `self + rows · pair`, the pair being the one at `at`.
    ///
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn add(self, rows: Self, at: *const u8) -> Self;
}

impl Vector for __m512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn of(lanes: __m512i) -> __m512 {
        _mm512_castsi512_ps(lanes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn whole(self) -> __m512i {
        _mm512_castps_si512(self)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load(at: *const u8) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_load_ps(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn add(self, rows: __m512, at: *const u8) -> __m512 {
        // SAFETY: the caller's contract.
        let pair = unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) };
        _mm512_dpbf16_ps(self, dot::bf16s(_mm512_castps_si512(rows)), dot::bf16s(pair))
    }
}

impl Vector for __m256 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn of(lanes: __m512i) -> __m256 {
        _mm256_castsi256_ps(_mm512_castsi512_si256(lanes))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn whole(self) -> __m512i {
        _mm512_zextsi256_si512(_mm256_castps_si256(self))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_load_ps(at.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    unsafe fn add(self, rows: __m256, at: *const u8) -> __m256 {
        // SAFETY: the caller's contract, and the same bits as pairs of bf16.
        unsafe {
            let pair = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
            _mm256_dpbf16_ps(
                self,
                std::mem::transmute::<__m256, __m256bh>(rows),
                std::mem::transmute::<__m256i, __m256bh>(pair),
            )
        }
    }
}

/// Adds a section of the depth to the sums of 16 columns from `col` on of `cols`.
///
/// # Safety
/// The processor has AVX-512 with bf16; `values` are `[cols, depth]`; `left` holds the vectors of the section.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
unsafe fn add_section<E: Element, V: Vector>(
    sums: &mut [V; LINES],
    section: &PackedSection<'_>,
    values: &[E],
    cols: usize,
    col: usize,
    left: *const u8,
) {
    let depth = section.depth;
    let lines_here = (cols - col).min(LINES);
    let from = values.as_ptr().wrapping_add(col * depth);
    // what is not bf16, or ends inside a step, is copied on its way
    let mut copy = [[_mm512_setzero_si512(); 1]; LINES];
    for step in 0..depth.div_ceil(STEP_DEPTH) {
        let len = (depth - step * STEP_DEPTH).min(STEP_DEPTH);
        let from = from.wrapping_add(step * STEP_DEPTH);
        let whole = lines_here == LINES && len == STEP_DEPTH;
        let left = left.wrapping_add(step * PAIRS * size_of::<V>());
        // SAFETY: lines of the matrix from an element on that has `len` after it, none of those beyond; vectors of the part.
        unsafe {
            if whole && E::IS_BF16 {
                add_step(sums, from.cast(), depth * size_of::<E>(), left);
            } else {
                for (i, line) in copy.iter_mut().enumerate() {
                    let at = from.wrapping_add(i * depth);
                    *line = if whole { E::all_terms(at) } else { E::terms(at, if i < lines_here { len } else { 0 }) };
                }
                add_step(sums, copy.as_ptr().cast(), LINE, left);
            }
        }
        for i in 0..LINES {
            pack::prefetch(from.wrapping_add((LINES + i) * depth), len);
        }
    }
}

/// Adds a step to the sums of 16 columns, whose numbers begin `stride` bytes apart.
///
/// # Safety
/// The processor has AVX-512 with bf16; 32 bf16 for each column; `left` holds a step's vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
unsafe fn add_step<V: Vector>(sums: &mut [V; LINES], right: *const u8, stride: usize, left: *const u8) {
    for pair in 0..PAIRS {
        // SAFETY: the caller's contract.
        unsafe {
            let rows = V::load(left.add(pair * size_of::<V>()));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(rows, right.add(i * stride + 4 * pair));
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
