//! The layout of a call's panels and the order of its products, and the two ways of computing a call that pack both operands.

use super::corner::Corner;
use super::shared::{bytes, with_shared};
use super::{
    Down, LeftPart, LeftValues, Output, OutputValues, RIGHT_BYTES, Section, Start, TASKS_PER_THREAD, Target, Tiled,
    Way, left_terms, panels_per_task,
};
use crate::Precision;
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::unit::block_sum::{BLOCK, BlockSum, Finished, STEP_BYTES, STEP_DEPTH, SUMS_BYTES, Step};
use crate::cpu::unit::pack::{self, Matrix, Role, panel_bytes};
use crate::device::Packed;
use crate::gemm::cpu::scratch::{Area, Scratch, with_scratch};
use crate::gemm::cpu::{Order, Right, Values};
use std::ops::Range;

/// The layout of a call's panels and the order of its products, which follow from its sizes.
pub(super) struct Sizes<'a> {
    pub(super) call: &'a Tiled<'a>,
    left_terms: usize,
    /// Where each part begins in a left panel, in bytes.
    pub(super) parts: Vec<usize>,
    pub(super) left_panel: usize,
    pub(super) row_panels: usize,
    pub(super) downs: Vec<Recipe<'a>>,
    /// Where the right panels of each of `downs` begin, in bytes. The last ones end at `down_bytes`.
    down_at: Vec<usize>,
    down_bytes: usize,
    pub(super) targets: Vec<Recipe<'a>>,
    /// The right panels of all targets, one after the other.
    pub(super) panels: Vec<Panel>,
    /// Bytes of the largest of these panels.
    largest_panel: usize,
}

/// A right panel of a target.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) target: usize,
    pub(super) col: usize,
    /// Bytes of all panels before this one.
    at: usize,
}

/// How a sum is computed over its depth, and where the result goes.
pub(super) struct Recipe<'a> {
    pub(super) sink: Sink,
    pub(super) cols: usize,
    pub(super) sections: Vec<PackedSection<'a>>,
    /// Bytes of a right panel.
    right_panel: usize,
    /// Products that run one after the other, each over the whole depth.
    products: Vec<Terms>,
}

/// A section, and where it begins in a left panel and in a right panel.
pub(super) struct PackedSection<'a> {
    pub(super) right: Right<'a>,
    pub(super) depth: usize,
    terms: usize,
    pub(super) left_at: usize,
    right_at: usize,
}

/// Pairs of terms whose products are added in one pass over the depth.
///
/// The passes of small products come first. Each addition errs by half a unit in the last place of the sum so far, and the sum is
/// small until the last pass. So three terms err no more than one.
struct Terms {
    /// What is multiplied, in order: for each step of the depth, each pair of terms. One more step follows: see
    /// [`BlockSum::steps`].
    steps: Vec<Step>,
    /// For each of `steps`, how many pairs of the depth it has.
    depth_pairs: Vec<u8>,
    /// Where the blocks of the depth begin among `steps`, and where the last one ends.
    bounds: Vec<usize>,
}

impl Terms {
    /// Lists the pairs of terms of the given orders. The order of a pair is the sum of its terms' indices.
    fn new(unit: Unit, left_terms: usize, sections: &[PackedSection<'_>], orders: &[usize]) -> Terms {
        let (mut steps, mut depth_pairs) = (Vec::new(), Vec::new());
        let mut ends = vec![0];
        for section in sections {
            for step in 0..section.depth.div_ceil(STEP_DEPTH) {
                let depth = (section.depth - step * STEP_DEPTH).min(STEP_DEPTH);
                for order in orders {
                    for left in (0..=*order).filter(|left| *left < left_terms && order - left < section.terms) {
                        steps.push(Step {
                            left: section.left_at + (step * left_terms + left) * STEP_BYTES,
                            right: section.right_at + (step * section.terms + order - left) * STEP_BYTES,
                        });
                        depth_pairs.push(depth.div_ceil(2) as u8);
                    }
                }
                ends.push(steps.len());
            }
        }
        steps.push(Step { left: 0, right: 0 });
        let depth_steps = ends.len() - 1;
        let blocks = depth_steps.div_ceil(unit.steps_per_block());
        let bounds = (0..=blocks).map(|block| ends[depth_steps * block / blocks.max(1)]).collect();
        Terms { steps, depth_pairs, bounds }
    }
}

/// Packed memory that the tasks of a call share. One task writes each byte, before any task reads it.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) *mut u8);
// SAFETY: one task writes each byte, before any task reads it.
unsafe impl Send for Shared {}
// SAFETY: tasks that share it write different bytes, and read only bytes that were written before they began.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

impl<'a> Sizes<'a> {
    /// Works out the layout of a call, and the order of its products if `with_products`.
    pub(super) fn new(call: &'a Tiled<'a>, with_products: bool) -> Sizes<'a> {
        let left_terms = left_terms(call.precision);
        let mut parts = Vec::new();
        let mut left_panel = 0;
        for part in 0..call.left.len() + call.downs.len() {
            parts.push(left_panel);
            left_panel += panel_bytes(call.depth(part), left_terms);
        }
        let recipe = |sink: Sink, cols: usize, sections: &[Section<'a>]| {
            let mut right_panel = 0;
            let sections: Vec<_> = (sections.iter())
                .map(|&Section { part, right }| {
                    let (depth, right_at) = (call.depth(part), right_panel);
                    let terms = match (call.precision, right.values) {
                        (Precision::Bf16, _) | (_, Values::Bf16(_)) => 1,
                        (_, Values::F16(_)) => 2,
                        (_, Values::F32(_)) => 3,
                    };
                    right_panel += panel_bytes(depth, terms);
                    PackedSection { right, depth, terms, left_at: parts[part], right_at }
                })
                .collect();
            // a term is at most 2^-8 of the one before, so beyond order 2 the products are below the last bit of f32
            let orders: &[&[usize]] = match left_terms {
                _ if !with_products => &[],
                1 => &[&[0]],
                _ => &[&[2, 1], &[0]],
            };
            let products = orders.iter().map(|orders| Terms::new(call.unit, left_terms, &sections, orders)).collect();
            Recipe { sink, cols, sections, right_panel, products }
        };
        let of_down = |down: &Down<'a>| {
            let output = Output { at: OutputValues::F32(down.u), stride: down.rank };
            recipe(Sink { alpha: down.alpha, start: Start::Zero, output }, down.rank, &[down.section])
        };
        let of_target = |&Target { cols, ref sections, alpha, start, output }: &Target<'a>| {
            recipe(Sink { alpha, start, output }, cols, sections)
        };
        let downs: Vec<_> = call.downs.iter().map(of_down).collect();
        let targets: Vec<_> = call.targets.iter().map(of_target).collect();
        let mut down_at = Vec::new();
        let mut down_bytes = 0;
        for down in &downs {
            down_at.push(down_bytes);
            down_bytes += down.panels() * down.right_panel;
        }
        let mut panels = Vec::new();
        let mut at = 0;
        for (target, recipe) in targets.iter().enumerate() {
            for col in 0..recipe.panels() {
                panels.push(Panel { target, col, at });
                at += recipe.right_panel;
            }
        }
        let largest_panel = targets.iter().map(|recipe| recipe.right_panel).max().unwrap_or(0);
        let row_panels = call.rows.div_ceil(BLOCK);
        Sizes {
            call,
            left_terms,
            parts,
            left_panel,
            row_panels,
            downs,
            down_at,
            down_bytes,
            targets,
            panels,
            largest_panel,
        }
    }

    /// Returns the bytes that the threads keep for packing after [`Tiled::run`] in this way.
    pub(super) fn packed(&self, way: Way) -> Packed {
        let of_bytes = |bytes: usize| Area::bytes_of(bytes.div_ceil(4));
        let scaled = |rows: usize| self.call.downs.iter().map(|down| rows * down.rank).max().unwrap_or(0);
        // one area holds first the scaled rows that a task packs, and then its blocks of sums
        let scaled_or_sums = |packed: usize, sums: usize| {
            Area::bytes_of(scaled((packed * BLOCK).min(self.call.rows)).max(Sums::floats(sums)))
        };
        let (shared, areas, threads) = match way {
            Way::FewRows(threads) => {
                let left = Area::bytes_of(scaled(self.call.rows));
                (self.left_panel, [left, 0, of_bytes(SUMS_BYTES)], threads)
            }
            Way::ColumnsApart(threads) => {
                let packs = self.row_panels.min(TASKS_PER_THREAD * threads);
                let partial = scaled_or_sums(self.row_panels.div_ceil(packs), self.row_panels);
                let shared = self.down_bytes + self.row_panels * self.left_panel;
                (shared, [0, of_bytes(self.largest_panel), partial], threads)
            }
            Way::RowsApart(threads) => {
                let rows = panels_per_task(self.row_panels, self.left_panel, threads);
                let shared = self.groups().map(|group| self.down_bytes + self.bytes_of(&group)).max().unwrap_or(0);
                (shared, [of_bytes(rows * self.left_panel), 0, scaled_or_sums(rows, rows)], threads)
            }
        };
        Packed { shared: of_bytes(shared), ..Packed::areas(areas, threads > 1) }
    }

    /// Returns the groups of right panels that are packed at a time, as ranges of `panels`.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let at = self.panels.get(first)?.at;
            let group = first..first + self.panels[first..].partition_point(|panel| panel.at - at < RIGHT_BYTES);
            first = group.end;
            Some(group)
        })
    }

    /// Bytes of the right panels of a group.
    fn bytes_of(&self, group: &Range<usize>) -> usize {
        let last = &self.panels[group.end - 1];
        last.at - self.panels[group.start].at + self.targets[last.target].right_panel
    }

    pub(super) fn columns_apart(&self, cpu: &Cpu, threads: usize) {
        let (left_at, row_panels) = (self.down_bytes, self.row_panels);
        with_shared(left_at + row_panels * self.left_panel, |shared| {
            let shared = Shared(shared);
            // SAFETY: the shared memory begins with `down_bytes` bytes for the panels of the updates.
            unsafe { self.pack_downs(shared.at(0)) };
            let packs = row_panels.min(TASKS_PER_THREAD * threads);
            in_parallel(cpu, threads, packs, |task| {
                let rows = part(row_panels, packs, task);
                let left = shared.at(left_at + rows.start * self.left_panel);
                // SAFETY: the shared memory holds all panels, and each task writes its own.
                with_scratch(|scratch| unsafe { self.pack_rows(rows, left, shared.at(0), true, scratch) });
            });
            let tasks = self.panels.len().min(TASKS_PER_THREAD * threads);
            in_parallel(cpu, threads, tasks, |task| {
                with_scratch(|scratch| {
                    let right = bytes(&mut scratch.right, self.largest_panel);
                    let sums = Sums::new(scratch, row_panels);
                    for panel in &self.panels[part(self.panels.len(), tasks, task)] {
                        let (recipe, left) = (&self.targets[panel.target], shared.at(left_at));
                        // SAFETY: the panel is one of the target's, and `right` has room for it; the left panels were packed
                        // above; `sums` has a block for each row panel.
                        unsafe {
                            recipe.pack_right(panel.col..panel.col + 1, right);
                            self.strip(recipe, 0..row_panels, left, panel.col, right, sums);
                        }
                    }
                });
            });
        });
    }

    pub(super) fn rows_apart(&self, cpu: &Cpu, threads: usize) {
        let row_panels = self.row_panels;
        let per_task = panels_per_task(row_panels, self.left_panel, threads);
        for group in self.groups() {
            let first = group.start;
            let right_at = |index: usize| self.down_bytes + self.panels[index].at - self.panels[first].at;
            with_shared(self.down_bytes + self.bytes_of(&group), |shared| {
                let shared = Shared(shared);
                let packs = group.len().min(2 * TASKS_PER_THREAD * threads);
                in_parallel(cpu, threads, packs, |task| {
                    // SAFETY: the shared memory holds the updates' panels and those of a group; each task writes its own.
                    unsafe {
                        if task == 0 {
                            self.pack_downs(shared.at(0));
                        }
                        let own = part(group.len(), packs, task);
                        let mut index = group.start + own.start;
                        while index < group.start + own.end {
                            // packs neighbours of one target together: the lines of its matrix are read once
                            let Panel { target, col, .. } = self.panels[index];
                            let rest = &self.panels[index..group.start + own.end];
                            let count = rest.iter().take_while(|panel| panel.target == target).count();
                            self.targets[target].pack_right(col..col + count, shared.at(right_at(index)));
                            index += count;
                        }
                    }
                });
                in_parallel(cpu, threads, row_panels.div_ceil(per_task), |task| {
                    let rows = task * per_task..((task + 1) * per_task).min(row_panels);
                    with_scratch(|scratch| {
                        let left = bytes(&mut scratch.left, rows.len() * self.left_panel);
                        // SAFETY: `left` has room for these row panels, and the panels of the updates were packed above.
                        unsafe { self.pack_rows(rows.clone(), left, shared.at(0), first == 0, scratch) };
                        let sums = Sums::new(scratch, rows.len());
                        for index in group.clone() {
                            let Panel { target, col, .. } = self.panels[index];
                            let (recipe, right) = (&self.targets[target], shared.at(right_at(index)));
                            // SAFETY: `left` and the right panel have been packed; `sums` has a block for each row panel.
                            unsafe { self.strip(recipe, rows.clone(), left, col, right, sums) };
                        }
                    });
                });
            });
        }
    }

    /// Packs the right operands of the updates.
    ///
    /// # Safety
    /// `to` has room for `down_bytes` bytes.
    unsafe fn pack_downs(&self, to: *mut u8) {
        for (recipe, at) in self.downs.iter().zip(&self.down_at) {
            // SAFETY: the caller guarantees room for `down_bytes` bytes, and these panels are inside them.
            unsafe { recipe.pack_right(0..recipe.panels(), to.add(*at)) };
        }
    }

    /// Packs row panels: first the parts in memory, then the parts that are computed from those ([`Down`]). Computes the latter
    /// only if `first`; otherwise they are in `u` already.
    ///
    /// # Safety
    /// `rows` are row panels of the call; `left` has room for them; `downs` holds the packed right panels of the updates.
    unsafe fn pack_rows(
        &self,
        rows: Range<usize>,
        left: *mut u8,
        downs: *const u8,
        first: bool,
        scratch: &mut Scratch,
    ) {
        for (part, at) in self.call.left.iter().zip(&self.parts) {
            // SAFETY: the caller guarantees room for these panels; the kernel's call has checked the operand's length.
            unsafe { self.pack_part(*part, self.call.rows, rows.clone(), left.add(*at)) };
        }
        for (index, down) in self.call.downs.iter().enumerate() {
            let recipe = &self.downs[index];
            let panels = downs.wrapping_add(self.down_at[index]);
            if first {
                let sums = Sums::new(scratch, rows.len());
                for col in 0..recipe.panels() {
                    let right = panels.wrapping_add(col * recipe.right_panel);
                    // SAFETY: the left parts were packed above; the caller guarantees that `downs` is packed; `sums` has a block
                    // for each row panel.
                    unsafe { self.strip(recipe, rows.clone(), left, col, right, sums) };
                }
            }
            let rows_in = rows.start * BLOCK..(rows.end * BLOCK).min(self.call.rows);
            // SAFETY: `u` holds these rows: they were computed above, or for the first group of right panels. Panel 0 of the
            // scaled copy is the first of `rows`.
            unsafe {
                let part = down.scaled(rows_in.clone(), &mut scratch.partial);
                let at = self.parts[self.call.left.len() + index];
                self.pack_part(part, rows_in.len(), 0..rows.len(), left.add(at));
            }
        }
    }

    /// # Safety
    /// The part holds `side` rows, the panels are among them, and `to` has room for the panels.
    unsafe fn pack_part(&self, part: LeftPart, side: usize, panels: Range<usize>, to: *mut u8) {
        let LeftPart { values, stride, depth, order } = part;
        let bytes = self.left_panel;
        // SAFETY: the caller guarantees that `part` holds `side` rows, with the panels among them, and room at `to`.
        unsafe {
            match (values, self.left_terms) {
                (LeftValues::F32(at), 1) => {
                    pack_lines::<_, 1>(Matrix { at, stride, side, depth }, order, Role::Left, panels, to, bytes);
                }
                (LeftValues::F32(at), _) => {
                    pack_lines::<_, 3>(Matrix { at, stride, side, depth }, order, Role::Left, panels, to, bytes);
                }
                (LeftValues::Bf16(at), 1) => {
                    pack_lines::<_, 1>(Matrix { at, stride, side, depth }, order, Role::Left, panels, to, bytes);
                }
                (LeftValues::Bf16(at), _) => {
                    pack_lines::<_, 3>(Matrix { at, stride, side, depth }, order, Role::Left, panels, to, bytes);
                }
            }
        }
    }

    /// Multiplies row panels `rows` by one column panel, over the whole depth. Whole blocks of an f32 output with `alpha = 1` are
    /// summed in the output itself. Other blocks are summed in `sums`, 32 x 32 for each row panel, and stored at the end.
    ///
    /// # Safety
    /// The processor has the unit; `left` holds the packed panels `rows`, and `right` the packed panel `col`; `sums` has a block
    /// for each row panel.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn strip(
        &self,
        recipe: &Recipe<'_>,
        rows: Range<usize>,
        left: *const u8,
        col: usize,
        right: *const u8,
        sums: Sums,
    ) {
        let Sink { alpha, start, output: Output { at: output, stride } } = recipe.sink;
        let width = (recipe.cols - col * BLOCK).min(BLOCK);
        let unit = self.call.unit;
        // SAFETY: the caller guarantees that the processor has the unit.
        unsafe { unit.configure() };
        let mut ahead = right.wrapping_add(recipe.right_panel);
        let blocks: usize = recipe.products.iter().map(|terms| terms.bounds.len() - 1).sum();
        let runs = recipe.products.iter().flat_map(|terms| terms.bounds.windows(2).map(move |block| (terms, block)));
        let mut finished: Option<Finished> = None;
        for (run, (terms, block)) in runs.enumerate() {
            let (first, last) = (run == 0, run + 1 == blocks);
            let (steps, count) = (terms.steps.as_ptr().wrapping_add(block[0]), block[1] - block[0]);
            let pairs = terms.depth_pairs.as_ptr().wrapping_add(block[0]);
            for (index, panel) in rows.clone().enumerate() {
                let height = (self.call.rows - panel * BLOCK).min(BLOCK);
                let left = left.wrapping_add(index * self.left_panel);
                let place = panel * BLOCK * stride + col * BLOCK;
                let whole = height == BLOCK && width == BLOCK && alpha == 1.0;
                let block = |from, to| BlockSum {
                    steps,
                    count,
                    left,
                    right,
                    from,
                    to,
                    rows: height,
                    cols: width,
                    pairs,
                    ahead,
                };
                // SAFETY: the block's first element is inside the output; `sums` has a block for each row panel; the steps are
                // inside the panels.
                unsafe {
                    if let (OutputValues::F32(output), true) = (output, whole) {
                        let to = output.add(place);
                        let from = match start {
                            Start::Zero if first => (std::ptr::null(), 0),
                            Start::Matrix(matrix) if first => (matrix.add(place), 4 * stride),
                            Start::Row(row) if first => (row.add(col * BLOCK), 0),
                            _ => (to.cast_const(), 4 * stride),
                        };
                        unit.run(block(from, (to, 4 * stride)));
                    } else {
                        let corner = Corner { stride, height, width };
                        let so_far = sums.partial(index, blocks);
                        let here = (so_far.cast_const(), 4 * BLOCK);
                        let from = match start {
                            _ if !first => here,
                            Start::Zero => (std::ptr::null(), 0),
                            Start::Row(row) => (row.add(col * BLOCK), 0),
                            // sums that are scaled cannot begin with the output, so they are added to it at the end
                            Start::Output if alpha != 1.0 => (std::ptr::null(), 0),
                            Start::Output => {
                                output.load(corner, place, so_far);
                                here
                            }
                            Start::Matrix(matrix) => {
                                corner.load(matrix.add(place), so_far);
                                here
                            }
                        };
                        let at = if last { sums.finished(index) } else { so_far };
                        let block = block(from, (at, 4 * BLOCK));
                        match finished.take() {
                            Some(finished) => {
                                if !unit.run_and_round(block, finished) {
                                    round(&finished);
                                }
                            }
                            None => unit.run(block),
                        }
                        if last {
                            let add = matches!(start, Start::Output) && alpha != 1.0;
                            match output {
                                OutputValues::Bf16(output) if whole => {
                                    finished = Some(Finished { sums: at, to: output.add(place), stride: 2 * stride });
                                }
                                _ => output.store(corner, at, alpha, add, place),
                            }
                        }
                    }
                }
                ahead = ahead.wrapping_add(128 * count);
            }
        }
        if let Some(finished) = finished {
            // SAFETY: `finished` is a whole block of `sums`, and its place in the output holds 32 rows of 32 bf16.
            unsafe { round(&finished) };
        }
    }
}

/// Memory for blocks of sums.
#[derive(Clone, Copy)]
struct Sums(*mut f32);

impl Sums {
    /// Takes memory for `panels` row panels at a time.
    fn new(scratch: &mut Scratch, panels: usize) -> Sums {
        let at = scratch.partial.floats(Sums::floats(panels));
        let misaligned = at.addr() % SUMS_BYTES;
        Sums(at.wrapping_byte_add(if misaligned == 0 { 0 } else { SUMS_BYTES - misaligned }))
    }

    /// Floats of a block for each of `panels` row panels, of two finished blocks, and of one more block, which leaves room to align
    /// the other blocks to their size.
    fn floats(panels: usize) -> usize {
        (panels + 3) * BLOCK * BLOCK
    }

    /// Where a sum waits from one block of the depth to the next. If there is only one block, all sums share one place.
    fn partial(self, panel: usize, blocks: usize) -> *mut f32 {
        self.0.wrapping_add((2 + if blocks == 1 { 0 } else { panel }) * BLOCK * BLOCK)
    }

    /// Where a finished sum waits to be rounded while the next one is computed.
    fn finished(self, panel: usize) -> *mut f32 {
        self.0.wrapping_add(panel % 2 * BLOCK * BLOCK)
    }
}

/// Rounds a finished block of sums to bf16 and stores it.
///
/// # Safety
/// As [`Unit::run_and_round`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round(finished: &Finished) {
    let corner = Corner { stride: finished.stride / 2, height: BLOCK, width: BLOCK };
    // SAFETY: the caller guarantees 32 x 32 floats at `sums`, and 32 rows of 32 bf16 at `to`.
    unsafe { corner.store_bf16(finished.sums, 1.0, false, finished.to) }
}

/// What the sums of a target begin with, their factor, and where they go.
#[derive(Clone, Copy)]
pub(super) struct Sink {
    pub(super) alpha: f32,
    pub(super) start: Start,
    pub(super) output: Output,
}

// SAFETY: tasks write disjoint rows or columns of the outputs, and nobody writes what sums begin with.
unsafe impl Sync for Sink {}

impl Down<'_> {
    /// Copies some rows of `u` to `area`, scaled, and returns them as a left operand.
    ///
    /// # Safety
    /// `u` holds the rows.
    pub(super) unsafe fn scaled(&self, rows: Range<usize>, area: &mut Area) -> LeftPart {
        let len = rows.len() * self.rank;
        let scaled = area.floats(len);
        // SAFETY: the caller guarantees that `u` holds these rows; the area has `len` floats.
        unsafe {
            for i in 0..len {
                *scaled.add(i) = self.scale * *self.u.add(rows.start * self.rank + i);
            }
        }
        LeftPart { values: LeftValues::F32(scaled), stride: self.rank, depth: self.rank, order: Order::Columns }
    }
}

impl Recipe<'_> {
    pub(super) fn panels(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// Packs the right panels `panels` of all sections.
    ///
    /// # Safety
    /// `panels` is within `0..self.panels()`, and `to` has room for those panels.
    unsafe fn pack_right(&self, panels: Range<usize>, to: *mut u8) {
        for section in &self.sections {
            let to = to.wrapping_add(section.right_at);
            // SAFETY: the caller guarantees that `panels` is within `0..self.panels()`, and room for those panels at `to`.
            unsafe {
                match (section.right.values, section.terms) {
                    (Values::Bf16(values), _) => self.pack_section::<_, 1>(section, values, panels.clone(), to),
                    (Values::F16(values), 1) => self.pack_section::<_, 1>(section, values, panels.clone(), to),
                    (Values::F16(values), _) => self.pack_section::<_, 2>(section, values, panels.clone(), to),
                    (Values::F32(values), 1) => self.pack_section::<_, 1>(section, values, panels.clone(), to),
                    (Values::F32(values), _) => self.pack_section::<_, 3>(section, values, panels.clone(), to),
                }
            }
        }
    }

    /// # Safety
    /// As [`Recipe::pack_right`].
    unsafe fn pack_section<E: pack::Element, const T: usize>(
        &self,
        section: &PackedSection<'_>,
        values: &[E],
        panels: Range<usize>,
        to: *mut u8,
    ) {
        let PackedSection { right: Right { order, .. }, depth, .. } = *section;
        let stride = if order == Order::Columns { depth } else { self.cols };
        let matrix = Matrix { at: values.as_ptr(), stride, side: self.cols, depth };
        // SAFETY: the caller guarantees room for the recipe's panels; the kernel's call has checked the operand's length.
        unsafe { pack_lines::<E, T>(matrix, order, Role::Right, panels, to, self.right_panel) };
    }
}

/// # Safety
/// As [`pack::along_depth`]; the panels begin `bytes` apart.
unsafe fn pack_lines<E: pack::Element, const T: usize>(
    matrix: Matrix<E>,
    order: Order,
    role: Role,
    panels: Range<usize>,
    to: *mut u8,
    bytes: usize,
) {
    // SAFETY: both functions require only what the caller of this one guarantees.
    unsafe {
        match order {
            Order::Columns => pack::along_depth::<E, T>(matrix, role, panels, to, bytes),
            Order::Rows => pack::across_depth::<E, T>(matrix, role, panels, to, bytes),
        }
    }
}

/// Runs `task` for each number below `tasks`, on the pool if `threads` is more than one.
pub(super) fn in_parallel(cpu: &Cpu, threads: usize, tasks: usize, task: impl Fn(usize) + Sync + Send) {
    if threads == 1 {
        (0..tasks).for_each(task);
    } else {
        cpu.parallel(tasks, |_, number| task(number));
    }
}

/// Cuts `len` into `parts` nearly equal parts and returns part `index`.
pub(super) fn part(len: usize, parts: usize, index: usize) -> Range<usize> {
    len * index / parts..len * (index + 1) / parts
}
