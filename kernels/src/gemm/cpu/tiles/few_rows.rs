//! Products of so few rows that reading the right operand is what takes the time, as in decoding. The lanes of a vector are the
//! rows: the rows lie turned, a vector for each pair of the depth, and the right operand's pairs are repeated in all lanes as
//! they are read where they lie, so that nothing is packed nor shuffled on their way. On AMX, a tile of the right operand as it
//! lies is the left one of a product, and the turned rows are the right one. The lines of the next columns are asked for
//! meanwhile.
//!
//! The steps come in the order of the packed way, with the same instruction, so the bits are the same.

use super::corner::Corner;
use super::plan::{PackedSection, Plan, Recipe, Shared, Sink, in_parallel, part};
use super::{LeftPart, LeftValues, Order, OutputValues, Start, TASKS_PER_THREAD, Tiled, Values, left_terms};
use crate::cpu::tiles::amx;
use crate::cpu::tiles::microkernel::{BLOCK, STEP_DEPTH, SUMS_BYTES, Unit};
use crate::cpu::tiles::pack::{self, Element, LINES};
use crate::device::Cpu;
use crate::gemm::cpu::scratch::{self, Area, with_scratch};
use std::arch::asm;
use std::arch::x86_64::*;

/// Most rows in the lanes of one vector.
const LANES: usize = 16;
/// Pairs of a step.
const PAIRS: usize = STEP_DEPTH / 2;
/// Bytes of 32 numbers.
const LINE: usize = 64;

/// Whether a call is computed this way: a number is read where it lies, as one term, and it lies along the depth.
pub(super) fn fits(call: &Tiled<'_>) -> bool {
    let of_targets = call.targets.iter().flat_map(|target| &target.sections);
    let mut sections = of_targets.chain(call.downs.iter().map(|down| &down.section));
    left_terms(call.precision) == 1
        && call.rows <= BLOCK
        && call.left.iter().all(|part| part.order == Order::Columns)
        && sections.all(|section| section.right.order == Order::Columns)
}

/// The rows, turned: their parts, in a part 16 rows after the other, and of those a vector for each pair of the depth. Where
/// 8 rows or fewer are left, vectors are half as long.
#[derive(Clone, Copy)]
struct Rows {
    at: Shared,
    count: usize,
    unit: Unit,
}

/// Up to 16 rows of a part.
#[derive(Clone, Copy)]
struct Lanes {
    /// The first of them.
    first: usize,
    count: usize,
    /// Bytes of a pair's vector.
    bytes: usize,
}

impl Rows {
    /// Where the part begins that begins at `packed` in a panel of 32 rows.
    fn part(self, packed: usize) -> *mut u8 {
        self.at.at(packed)
    }

    fn lanes(self) -> impl Iterator<Item = Lanes> {
        (0..self.count).step_by(LANES).map(move |first| {
            let count = (self.count - first).min(LANES);
            let half = self.unit == Unit::Dot && count <= LANES / 2;
            Lanes { first, count, bytes: if half { LINE / 2 } else { LINE } }
        })
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
                        if lanes.bytes == LINE {
                            _mm512_store_si512(to.cast(), pair);
                        } else {
                            _mm256_store_si256(to.cast(), _mm512_castsi512_si256(pair));
                        }
                        to = to.add(lanes.bytes);
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
            let left = Rows { at: Shared(left), count: self.call.rows, unit: self.call.unit };
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
                    self.call.unit.configure();
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
                self.call.unit.configure();
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
                    match (left.unit, lanes.bytes) {
                        (Unit::Amx, _) => recipe.tile::<Turned>(col, left, lanes, from, at),
                        (Unit::Dot, LINE) => recipe.tile::<[__m512; LINES]>(col, left, lanes, from, at),
                        (Unit::Dot, _) => recipe.tile::<[__m256; LINES]>(col, left, lanes, from, at),
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
    unsafe fn tile<S: Sums>(
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
            let mut sums = S::of(lines);
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
            for (row, line) in pack::transposed(sums.lines()).into_iter().enumerate().take(lanes.count) {
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

/// The sums of 16 columns, the rows in their lanes.
trait Sums {
    /// Bytes of a pair's vector of rows.
    const VECTOR: usize;

    /// Sums that begin with these, a line for each column.
    ///
    /// # Safety
    /// The processor has AVX-512 with bf16, and the unit, configured on this thread.
    unsafe fn of(lines: [__m512i; LINES]) -> Self;
    /// A line for each column.
    ///
    /// # Safety
    /// As [`Sums::of`].
    unsafe fn lines(&self) -> [__m512i; LINES];
    /// Adds `steps` steps of the depth, in the last of which `pairs` pairs are not zero. The numbers of the columns begin
    /// `stride` bytes apart at `right`; asks for 64 bytes a step of each of the lines at `ahead`, as many bytes apart as it says,
    /// in the order in which they will be wanted. They need not be valid.
    ///
    /// # Safety
    /// As [`Sums::of`]; 32 bf16 a step for each column, and at `left` the vectors of the steps.
    unsafe fn add(
        &mut self,
        right: *const u8,
        stride: usize,
        left: *const u8,
        steps: usize,
        pairs: usize,
        ahead: (*const u8, usize),
    );
}

/// In vectors of rows, of either length.
macro_rules! sums_in_vectors {
    ($vector:ty, $register:ident, $rows:tt, $repeat:literal, $zero:ident, $of:expr, $whole:expr) => {
        impl Sums for [$vector; LINES] {
            const VECTOR: usize = size_of::<$vector>();

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
            unsafe fn of(lines: [__m512i; LINES]) -> Self {
                let mut sums = [$zero(); LINES];
                for (sum, line) in sums.iter_mut().zip(lines) {
                    *sum = $of(line);
                }
                sums
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
            unsafe fn lines(&self) -> [__m512i; LINES] {
                let mut lines = [_mm512_setzero_si512(); LINES];
                for (line, sum) in lines.iter_mut().zip(self) {
                    *line = $whole(*sum);
                }
                lines
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
            unsafe fn add(
                &mut self,
                right: *const u8,
                stride: usize,
                left: *const u8,
                steps: usize,
                pairs: usize,
                ahead: (*const u8, usize),
            ) {
                for step in 0..steps {
                    let (right, left) =
                        (right.wrapping_add(step * LINE), left.wrapping_add(step * PAIRS * Self::VECTOR));
                    let pairs = if step + 1 < steps { PAIRS } else { pairs };
                    // one register for four lines, the others of which lie one, two and three strides behind
                    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = self;
                    // SAFETY: the caller's contract.
                    unsafe {
                        asm!(
                            "2:",
                            concat!("vmovdqa64 ", $rows, ", [{left}]"),
                            concat!("vdpbf16ps {s0}, ", $rows, ", dword ptr [{l0}]", $repeat),
                            concat!("vdpbf16ps {s1}, ", $rows, ", dword ptr [{l0} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s2}, ", $rows, ", dword ptr [{l0} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s3}, ", $rows, ", dword ptr [{l0} + {three}]", $repeat),
                            concat!("vdpbf16ps {s4}, ", $rows, ", dword ptr [{l1}]", $repeat),
                            concat!("vdpbf16ps {s5}, ", $rows, ", dword ptr [{l1} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s6}, ", $rows, ", dword ptr [{l1} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s7}, ", $rows, ", dword ptr [{l1} + {three}]", $repeat),
                            concat!("vdpbf16ps {s8}, ", $rows, ", dword ptr [{l2}]", $repeat),
                            concat!("vdpbf16ps {s9}, ", $rows, ", dword ptr [{l2} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s10}, ", $rows, ", dword ptr [{l2} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s11}, ", $rows, ", dword ptr [{l2} + {three}]", $repeat),
                            concat!("vdpbf16ps {s12}, ", $rows, ", dword ptr [{l3}]", $repeat),
                            concat!("vdpbf16ps {s13}, ", $rows, ", dword ptr [{l3} + {stride}]", $repeat),
                            concat!("vdpbf16ps {s14}, ", $rows, ", dword ptr [{l3} + 2 * {stride}]", $repeat),
                            concat!("vdpbf16ps {s15}, ", $rows, ", dword ptr [{l3} + {three}]", $repeat),
                            "add {l0}, 4",
                            "add {l1}, 4",
                            "add {l2}, 4",
                            "add {l3}, 4",
                            "add {left}, {vector}",
                            "dec {pairs}",
                            "jnz 2b",
                            out($rows) _,
                            left = inout(reg) left => _,
                            vector = const size_of::<$vector>(),
                            pairs = inout(reg) pairs => _,
                            stride = in(reg) stride,
                            three = in(reg) 3 * stride,
                            l0 = inout(reg) right => _,
                            l1 = inout(reg) right.wrapping_add(4 * stride) => _,
                            l2 = inout(reg) right.wrapping_add(8 * stride) => _,
                            l3 = inout(reg) right.wrapping_add(12 * stride) => _,
                            s0 = inout($register) *s0,
                            s1 = inout($register) *s1,
                            s2 = inout($register) *s2,
                            s3 = inout($register) *s3,
                            s4 = inout($register) *s4,
                            s5 = inout($register) *s5,
                            s6 = inout($register) *s6,
                            s7 = inout($register) *s7,
                            s8 = inout($register) *s8,
                            s9 = inout($register) *s9,
                            s10 = inout($register) *s10,
                            s11 = inout($register) *s11,
                            s12 = inout($register) *s12,
                            s13 = inout($register) *s13,
                            s14 = inout($register) *s14,
                            s15 = inout($register) *s15,
                            options(readonly, nostack),
                        );
                    }
                    for line in 0..LINES {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.0.wrapping_add(line * ahead.1 + step * LINE).cast());
                    }
                }
            }
        }
    };
}

sums_in_vectors!(__m512, zmm_reg, "zmm31", "{{1to16}}", _mm512_setzero_ps, _mm512_castsi512_ps, _mm512_castps_si512);
sums_in_vectors!(
    __m256,
    ymm_reg,
    "ymm31",
    "{{1to8}}",
    _mm256_setzero_ps,
    |line| _mm256_castsi256_ps(_mm512_castsi512_si256(line)),
    |sum| _mm512_zextsi256_si512(_mm256_castps_si256(sum))
);

/// In a tile of the matrix unit, between sections in memory.
#[repr(align(64))]
struct Turned([__m512i; LINES]);

impl Sums for Turned {
    const VECTOR: usize = LINE;

    #[inline]
    unsafe fn of(lines: [__m512i; LINES]) -> Turned {
        Turned(lines)
    }

    #[inline]
    unsafe fn lines(&self) -> [__m512i; LINES] {
        self.0
    }

    #[inline]
    unsafe fn add(
        &mut self,
        right: *const u8,
        stride: usize,
        left: *const u8,
        steps: usize,
        _: usize,
        ahead: (*const u8, usize),
    ) {
        // SAFETY: the caller's contract.
        unsafe { amx::add_turned(self.0.as_mut_ptr().cast(), right, stride, left, steps, ahead) }
    }
}

/// Adds a section of the depth to the sums of 16 columns from `col` on of `cols`.
///
/// # Safety
/// As [`Sums::of`]; `values` are `[cols, depth]`; `left` holds the vectors of the section.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
unsafe fn add_section<E: Element, S: Sums>(
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
    // SAFETY: whole steps of 16 lines of the matrix, and their vectors.
    unsafe { sums.add(from.cast(), stride, left, in_place, PAIRS, (ahead, stride)) };
    // what is not bf16, or ends inside a step, is copied on its way
    for step in in_place..depth.div_ceil(STEP_DEPTH) {
        let len = (depth - step * STEP_DEPTH).min(STEP_DEPTH);
        let from = from.wrapping_add(step * STEP_DEPTH);
        let mut copy = [_mm512_setzero_si512(); LINES];
        // SAFETY: lines of the matrix from an element on that has `len` after it, none of those beyond; vectors of the part.
        unsafe {
            for (i, line) in copy.iter_mut().enumerate() {
                let at = from.wrapping_add(i * depth);
                [*line] = match lines_here == LINES && len == STEP_DEPTH {
                    true => E::all_terms(at),
                    false => E::terms(at, if i < lines_here { len } else { 0 }),
                };
            }
            let left = left.wrapping_add(step * PAIRS * S::VECTOR);
            let ahead = ahead.wrapping_add(step * STEP_DEPTH * size_of::<E>());
            for i in 0..LINES {
                pack::prefetch(
                    ahead.wrapping_add(i * stride + LINE),
                    len * size_of::<E>() - LINE.min(len * size_of::<E>()),
                );
            }
            sums.add(copy.as_ptr().cast(), LINE, left, 1, len.div_ceil(2), (ahead, stride));
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
