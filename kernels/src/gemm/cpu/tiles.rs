//! The products on the matrix unit (AMX), f32 operands included.
//!
//! The unit multiplies bf16. For [`Precision::Bf16`] that is what is asked for. For [`Precision::F32`] each operand is a sum of
//! bf16 terms, each what rounding left of the one before: a bf16 weight is one term, an f16 two, an f32 three, which hold all
//! its 24 bits; the products of terms that f32 would lose anyway are left out. So a layer with bf16 weights costs three passes
//! of the unit and still agrees with f32 to its last bits, see [`Pass`].
//!
//! Both operands are packed into [`pack`]ed panels. Where there are more rows than columns, the right operand is packed once by
//! all threads and tasks are blocks of rows, which pack their own rows and keep them in the second-level cache while the right
//! panels pass. Otherwise the left operand is packed once and tasks are ranges of columns. An adapter's update of a layer rides
//! along with a block of rows: its two products read the rows where they are packed, and add to the sums while they are in
//! cache.
//!
//! The bits of an output element are a function of its own operands and of the depth, as on the other paths: the depth is cut
//! into blocks by its length alone, and the sums go through the blocks in order.

use super::scratch::{self, with_scratch};
use super::{Left, Order, Product, Values};
use crate::Precision;
use crate::cpu::Isa;
use crate::cpu::tiles::amx;
use crate::cpu::tiles::microkernel::{self, BLOCK, STEP_BYTES, STEP_DEPTH, Step, Sums};
use crate::cpu::tiles::pack::{self, Matrix, Role, panel_bytes};
use crate::device::Cpu;
use crate::gemm::Accumulate;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// Largest depth of a block, in steps: a right panel of 20 steps is 40 KiB of a first-level cache of 48.
const STEPS_PER_BLOCK: usize = 20;
/// Bytes of a task's left operand: they stay in a second-level cache of 2 MiB beside the panels that pass.
const LEFT_BYTES: usize = 1200 << 10;
/// Bytes that may be read after the last panel, and are not used: the last step loads "the next" one, up to three terms on.
const BEYOND: usize = 3 * STEP_BYTES;
/// Bytes of the right operand that are packed at a time.
const RIGHT_BYTES: usize = 32 << 20;
/// A matrix with a side of at most this many is narrow: at 64 x 64 to 64 x 192 the vectors are as fast as three terms or faster,
/// at 128 x 128 the unit is by 1.7.
const NARROW: usize = 64;
/// Enough tasks for each thread that one which loses its core for a while does not make the others wait.
const TASKS_PER_THREAD: usize = 2;
/// Below this many multiplications (each weight counts 16 more, for its packing) waking a thread costs more than it brings.
const PARALLEL_WORK: usize = 4 << 20;

impl Product<'_> {
    /// Whether the unit is there, and faster than the vectors. In f32, a number that is packed in terms must serve more than
    /// a narrow matrix to be worth it: an adapter's products are up to three times faster on vectors. The number of rows of a
    /// layer does not matter, so that a row's bits do not depend on the others.
    pub(super) fn fits_tiles(&self, cpu: &Cpu) -> bool {
        let matrix = match self.left {
            Left::Rows(_) => [self.cols, self.depth],
            Left::Columns(_) => [self.rows, self.cols],
        };
        let worth_it = self.precision == Precision::Bf16 || matrix.into_iter().min() > Some(NARROW);
        cpu.isa() == Isa::Amx && self.rows > 0 && self.cols > 0 && self.depth > 0 && worth_it
    }

    /// Computes it. It [`fits`](Self::fits_tiles).
    pub(super) fn run_on_tiles(&self, cpu: &Cpu) {
        let plan = Plan::new(self);
        let threads = self.threads(cpu);
        if self.by_columns(&plan, threads) {
            self.columns_apart(&plan, cpu, threads);
        } else {
            self.rows_apart(&plan, None, cpu, threads);
        }
    }

    /// Computes it and then the two products of an update of its first rows, with the bits of the three one after the other on
    /// the unit. It [`fits`](Self::fits_tiles); the update need not, since its operands are packed already.
    pub(super) fn run_with_on_tiles(&self, [down, up]: &[Product<'_>; 2], cpu: &Cpu) {
        let plan = Plan::new(self);
        let threads = self.threads(cpu);
        if self.by_columns(&plan, threads) {
            self.columns_apart(&plan, cpu, threads);
            down.run_on_tiles(cpu);
            up.run_on_tiles(cpu);
        } else {
            self.rows_apart(&plan, Some([&Plan::new(down), &Plan::new(up)]), cpu, threads);
        }
    }

    fn threads(&self, cpu: &Cpu) -> usize {
        let work = (self.rows + 16).saturating_mul(self.cols).saturating_mul(self.depth);
        if work < PARALLEL_WORK { 1 } else { cpu.threads() }
    }

    /// Whether tasks are ranges of columns.
    fn by_columns(&self, plan: &Plan<'_>, threads: usize) -> bool {
        let [row_panels, col_panels] = self.panels();
        let few_rows = row_panels * plan.left_panel <= LEFT_BYTES || row_panels < TASKS_PER_THREAD * threads;
        col_panels > row_panels && few_rows
    }

    fn panels(&self) -> [usize; 2] {
        [self.rows, self.cols].map(|side| side.div_ceil(BLOCK))
    }

    fn columns_apart(&self, plan: &Plan<'_>, cpu: &Cpu, threads: usize) {
        let [row_panels, col_panels] = self.panels();
        let per_task = col_panels.div_ceil(TASKS_PER_THREAD * threads);
        scratch::with_shared(row_panels * plan.left_panel + BEYOND, |left| {
            let left = Shared(left);
            let packs = row_panels.min(TASKS_PER_THREAD * threads);
            in_parallel(cpu, threads, packs, |task| {
                let panels = part(row_panels, packs, task);
                // SAFETY: the shared memory holds all panels, and each task writes its own.
                unsafe { plan.pack_left(panels.clone(), left.at().add(panels.start * plan.left_panel)) };
            });
            in_parallel(cpu, threads, col_panels.div_ceil(per_task), |task| {
                let panels = task * per_task..((task + 1) * per_task).min(col_panels);
                // SAFETY: the panels were packed above, for the whole product.
                unsafe { plan.columns(panels, left.at(), row_panels) };
            });
        });
    }

    /// `update`: the plans of its two products.
    fn rows_apart(&self, plan: &Plan<'_>, update: Option<[&Plan<'_>; 2]>, cpu: &Cpu, threads: usize) {
        let [row_panels, col_panels] = self.panels();
        let per_task = (LEFT_BYTES / plan.left_panel).clamp(1, row_panels.div_ceil(TASKS_PER_THREAD * threads));
        let per_pass = (RIGHT_BYTES / plan.right_panel).clamp(1, col_panels);
        // the right panels of a pass, and behind them those of the update
        let right_bytes = per_pass * plan.right_panel;
        let [down_bytes, up_bytes] = match update {
            Some([down, up]) => [down.product.panels()[1] * down.right_panel, per_pass * up.right_panel],
            None => [0, 0],
        };
        scratch::with_shared(right_bytes + down_bytes + up_bytes + BEYOND, |right| {
            let right = Shared(right);
            let (down_at, up_at) = (right_bytes, right_bytes + down_bytes);
            for first in (0..col_panels).step_by(per_pass) {
                let pass = first..(first + per_pass).min(col_panels);
                let packs = pass.len().min(2 * TASKS_PER_THREAD * threads);
                in_parallel(cpu, threads, packs, |task| {
                    let part = part(pass.len(), packs, task);
                    let panels = first + part.start..first + part.end;
                    // SAFETY: the shared memory holds the panels of a pass, and each task writes its own.
                    unsafe {
                        plan.pack_right(panels.clone(), right.at().add(part.start * plan.right_panel));
                        if let Some([down, up]) = update {
                            up.pack_right(panels, right.at().add(up_at + part.start * up.right_panel));
                            if task == 0 {
                                down.pack_right(0..down.product.panels()[1], right.at().add(down_at));
                            }
                        }
                    }
                });
                in_parallel(cpu, threads, row_panels.div_ceil(per_task), |task| {
                    let rows = task * per_task..((task + 1) * per_task).min(row_panels);
                    // SAFETY: the panels were packed above, for this pass.
                    unsafe {
                        let update = update.map(|plans| RowsUpdate {
                            plans,
                            down: right.at().add(down_at),
                            up: right.at().add(up_at),
                        });
                        plan.rows(rows, right.at(), pass.clone(), update);
                    }
                });
            }
        });
    }
}

/// Runs `task` for each number below `tasks`, on the pool if there is more than one thread for them.
fn in_parallel(cpu: &Cpu, threads: usize, tasks: usize, task: impl Fn(usize) + Sync + Send) {
    if threads == 1 {
        (0..tasks).for_each(task);
    } else {
        cpu.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(task));
    }
}

/// Part `index` of `parts` nearly equal ones.
fn part(len: usize, parts: usize, index: usize) -> Range<usize> {
    len * index / parts..len * (index + 1) / parts
}

/// Packed memory that the tasks of a call share: written before it is read, each byte by one task.
#[derive(Clone, Copy)]
struct Shared(*mut u8);
// SAFETY: see above.
unsafe impl Send for Shared {}
// SAFETY: see above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(&self) -> *mut u8 {
        self.0
    }
}

/// A product and what follows from its sizes.
struct Plan<'a> {
    product: &'a Product<'a>,
    left_terms: usize,
    right_terms: usize,
    /// Bytes of a panel.
    left_panel: usize,
    right_panel: usize,
    /// Steps of 32 of the depth in a block; the last block may have fewer.
    block_steps: usize,
    /// What is multiplied one after the other, each over the whole depth.
    passes: Vec<Pass>,
}

/// The two products of an update, `down` and `up`, and where their right panels lie.
#[derive(Clone, Copy)]
struct RowsUpdate<'a> {
    plans: [&'a Plan<'a>; 2],
    down: *const u8,
    up: *const u8,
}

/// Pairs of terms whose products are added together.
///
/// The small products come first: each addition errs by half a unit in the last place of the sum so far, which is small until
/// the last pass, so three terms err no more than one.
struct Pass {
    pairs: usize,
    /// What a block multiplies, in order: for each pair each step. One more than that, see [`microkernel::run`].
    steps: Vec<Step>,
}

impl Pass {
    /// The pairs of the given order, the sum of their terms' indices, over `steps` steps.
    fn new([left_terms, right_terms]: [usize; 2], orders: &[usize], steps: usize) -> Pass {
        let pairs: Vec<[usize; 2]> = orders
            .iter()
            .flat_map(|order| (0..=*order).map(move |left| [left, order - left]))
            .filter(|[left, right]| *left < left_terms && *right < right_terms)
            .collect();
        let at = |step: usize, [left, right]: [usize; 2]| Step {
            left: (step * left_terms + left) * STEP_BYTES,
            right: (step * right_terms + right) * STEP_BYTES,
        };
        // step by step, so that a shorter block is a prefix
        let mut list: Vec<Step> = (0..steps).flat_map(|step| pairs.iter().map(move |&pair| at(step, pair))).collect();
        list.push(Step { left: 0, right: 0 });
        Pass { pairs: pairs.len(), steps: list }
    }
}

// SAFETY: the pointers inside are those of the product, whose tasks write disjoint elements.
unsafe impl Sync for Plan<'_> {}

impl<'a> Plan<'a> {
    fn new(product: &'a Product<'a>) -> Plan<'a> {
        let exact = match product.right.values {
            Values::Bf16(_) => 1,
            Values::F16(_) => 2,
            Values::F32(_) => 3,
        };
        let [left_terms, right_terms] = match product.precision {
            Precision::Bf16 => [1, 1],
            Precision::F32 => [3, exact],
        };
        let depth_steps = product.depth.div_ceil(STEP_DEPTH);
        let block_steps = depth_steps.div_ceil(depth_steps.div_ceil(STEPS_PER_BLOCK));
        // a term is 2^-8 of the one before: beyond order 2 the products are below the last bit of f32
        let orders: &[&[usize]] = if left_terms == 1 { &[&[0]] } else { &[&[2, 1], &[0]] };
        let terms = [left_terms, right_terms];
        let passes = orders.iter().map(|orders| Pass::new(terms, orders, block_steps)).collect();
        Plan {
            product,
            left_terms,
            right_terms,
            left_panel: panel_bytes(product.depth, left_terms),
            right_panel: panel_bytes(product.depth, right_terms),
            block_steps,
            passes,
        }
    }

    /// Packs panels of the left operand.
    ///
    /// # Safety
    /// The panels are the product's; `to` holds them.
    unsafe fn pack_left(&self, panels: Range<usize>, to: *mut u8) {
        let Product { rows, depth, .. } = *self.product;
        // SAFETY: the caller's contract, and the contract of the call checked the operand's length.
        unsafe {
            match self.product.left {
                Left::Rows(values) => {
                    let matrix = Matrix { at: values, stride: depth, side: rows, depth };
                    match self.left_terms {
                        1 => pack::along_depth::<_, 1>(matrix, Role::Left, panels, to),
                        _ => pack::along_depth::<_, 3>(matrix, Role::Left, panels, to),
                    }
                }
                Left::Columns(values) => {
                    let matrix = Matrix { at: values, stride: rows, side: rows, depth };
                    match self.left_terms {
                        1 => pack::across_depth::<_, 1>(matrix, Role::Left, panels, to),
                        _ => pack::across_depth::<_, 3>(matrix, Role::Left, panels, to),
                    }
                }
            }
        }
    }

    /// Packs panels of the right operand.
    ///
    /// # Safety
    /// As [`Plan::pack_left`].
    unsafe fn pack_right(&self, panels: Range<usize>, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe {
            match (self.product.right.values, self.right_terms) {
                (Values::Bf16(values), _) => self.pack_right_terms::<_, 1>(values, panels, to),
                (Values::F16(values), 1) => self.pack_right_terms::<_, 1>(values, panels, to),
                (Values::F16(values), _) => self.pack_right_terms::<_, 2>(values, panels, to),
                (Values::F32(values), 1) => self.pack_right_terms::<_, 1>(values, panels, to),
                (Values::F32(values), _) => self.pack_right_terms::<_, 3>(values, panels, to),
            }
        }
    }

    /// # Safety
    /// As [`Plan::pack_left`].
    unsafe fn pack_right_terms<E: pack::Element, const T: usize>(
        &self,
        values: &[E],
        panels: Range<usize>,
        to: *mut u8,
    ) {
        let Product { cols, depth, .. } = *self.product;
        let at = values.as_ptr();
        // SAFETY: the caller's contract, and the contract of the call checked the operand's length.
        unsafe {
            match self.product.right.order {
                Order::Columns => {
                    let matrix = Matrix { at, stride: depth, side: cols, depth };
                    pack::along_depth::<E, T>(matrix, Role::Right, panels, to);
                }
                Order::Rows => {
                    let matrix = Matrix { at, stride: cols, side: cols, depth };
                    pack::across_depth::<E, T>(matrix, Role::Right, panels, to);
                }
            }
        }
    }

    /// A task of column panels: packs one after the other and multiplies all rows by it.
    ///
    /// # Safety
    /// `left` holds all left panels, packed.
    unsafe fn columns(&self, cols: Range<usize>, left: *const u8, row_panels: usize) {
        with_scratch(|scratch| {
            let right = scratch.right.bytes(self.right_panel + BEYOND);
            let sums = scratch.partial.floats(row_panels * BLOCK * BLOCK);
            for col in cols {
                // SAFETY: the panel is the product's, the scratch holds it; the caller's contract.
                unsafe {
                    self.pack_right(col..col + 1, right);
                    self.strip(0..row_panels, left, col, right, std::ptr::null(), sums);
                }
            }
        });
    }

    /// A task of row panels: packs them and multiplies them by each right panel of a pass. Rows of an update go through its two
    /// products on the way, while they are in cache.
    ///
    /// # Safety
    /// `right` holds the panels `pass`, packed, and the update its own.
    unsafe fn rows(&self, rows: Range<usize>, right: *const u8, pass: Range<usize>, update: Option<RowsUpdate<'_>>) {
        with_scratch(|scratch| {
            let left_bytes = rows.len() * self.left_panel;
            let updated = update.as_ref().map_or(rows.start..rows.start, |update| {
                rows.start..rows.end.min(update.plans[0].product.panels()[0]).max(rows.start)
            });
            let between_bytes = update.as_ref().map_or(0, |update| updated.len() * update.plans[1].left_panel);
            let left = scratch.left.bytes(left_bytes + between_bytes + BEYOND);
            let between = left.wrapping_add(left_bytes);
            let sums = scratch.partial.floats(rows.len() * BLOCK * BLOCK);
            // SAFETY: the panels are the products', the scratch holds them; the caller's contract.
            unsafe {
                self.pack_left(rows.clone(), left);
                if let Some(RowsUpdate { plans: [down, up], down: panels, .. }) = update {
                    if pass.start == 0 {
                        for col in 0..down.product.panels()[1] {
                            let panel = panels.wrapping_add(col * down.right_panel);
                            down.strip(updated.clone(), left, col, panel, right, sums);
                        }
                    }
                    up.pack_left(updated.clone(), between);
                }
            }
            for (index, col) in pass.enumerate() {
                let panel = right.wrapping_add(index * self.right_panel);
                let next = panel.wrapping_add(self.right_panel);
                // SAFETY: as above.
                unsafe {
                    self.strip(rows.clone(), left, col, panel, next, sums);
                    if let Some(RowsUpdate { plans: [_, up], up: panels, .. }) = update {
                        let panel = panels.wrapping_add(index * up.right_panel);
                        up.strip(updated.clone(), between, col, panel, next, sums);
                    }
                }
            }
        });
    }

    /// Row panels `rows` by one column panel, over the whole depth. Whole blocks with `alpha = 1` have their sums in the
    /// output itself; the others in `sums`, 32 x 32 for each row panel, and the output's last.
    ///
    /// # Safety
    /// The unit is there; `left` holds the panels `rows`, `right` the panel `col`, both packed, `sums` its blocks. `next` is
    /// where the panel after this one lies; it need not be valid.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn strip(
        &self,
        rows: Range<usize>,
        left: *const u8,
        col: usize,
        right: *const u8,
        next: *const u8,
        sums: *mut f32,
    ) {
        let Product { alpha, accumulate, depth, .. } = *self.product;
        let [all_rows, all_cols] = [self.product.rows, self.product.cols];
        let width = (all_cols - col * BLOCK).min(BLOCK);
        let depth_steps = depth.div_ceil(STEP_DEPTH);
        // the sums start from the output where they are added to it unscaled
        let from_output = accumulate == Accumulate::Add && alpha == 1.0;
        // SAFETY: the thread runs a task of the unit.
        unsafe { amx::configure() };
        let mut ahead = next;
        let blocks = (0..depth_steps).step_by(self.block_steps);
        let count = blocks.len() * self.passes.len();
        let runs = self.passes.iter().flat_map(|pass| blocks.clone().map(move |block| (pass, block)));
        for (run, (pass, first_step)) in runs.enumerate() {
            let (first, last) = (run == 0, run + 1 == count);
            let steps = self.block_steps.min(depth_steps - first_step) * pass.pairs;
            let right = right.wrapping_add(first_step * self.right_terms * STEP_BYTES);
            for (index, panel) in rows.clone().enumerate() {
                let height = (all_rows - panel * BLOCK).min(BLOCK);
                let left = left.wrapping_add(index * self.left_panel + first_step * self.left_terms * STEP_BYTES);
                let from_zero = first && !from_output;
                // SAFETY: the block's first element is one of the output; a block of sums for each panel of rows; the steps
                // of the block lie inside the panels, the one after them inside the memory that follows.
                unsafe {
                    let output = self.product.output.0.add(panel * BLOCK * all_cols + col * BLOCK);
                    if height == BLOCK && width == BLOCK && alpha == 1.0 {
                        let block = Sums { at: output, stride: 4 * all_cols, from_zero };
                        microkernel::run(pass.steps.as_ptr(), steps, left, right, block, ahead);
                    } else {
                        let at = sums.add(index * BLOCK * BLOCK);
                        let corner = Corner { output, stride: all_cols, height, width };
                        if first && from_output {
                            corner.load(at);
                        }
                        let block = Sums { at, stride: 4 * BLOCK, from_zero };
                        microkernel::run(pass.steps.as_ptr(), steps, left, right, block, ahead);
                        if last {
                            corner.store(at, alpha, accumulate == Accumulate::Add && alpha != 1.0);
                        }
                    }
                }
                ahead = ahead.wrapping_add(128 * steps);
            }
        }
    }
}

/// Up to 32 x 32 elements of the output.
#[derive(Clone, Copy)]
struct Corner {
    output: *mut f32,
    /// Elements from row to row.
    stride: usize,
    height: usize,
    width: usize,
}

impl Corner {
    /// A mask of the columns that vector `half` of a row holds.
    fn lanes(self, half: usize) -> __mmask16 {
        (((1u64 << self.width) - 1) >> (16 * half)) as __mmask16
    }

    /// Copies it to a block of sums.
    ///
    /// # Safety
    /// Both are valid.
    #[target_feature(enable = "avx512f")]
    unsafe fn load(self, sums: *mut f32) {
        for row in 0..self.height {
            for half in 0..2 {
                // SAFETY: only the columns of the mask are read.
                unsafe {
                    let from = self.output.wrapping_add(row * self.stride + 16 * half);
                    let v = _mm512_maskz_loadu_ps(self.lanes(half), from);
                    _mm512_storeu_ps(sums.add(row * BLOCK + 16 * half), v);
                }
            }
        }
    }

    /// `output (+)= alpha * sums`
    ///
    /// # Safety
    /// Both are valid.
    #[target_feature(enable = "avx512f")]
    unsafe fn store(self, sums: *const f32, alpha: f32, add: bool) {
        let alpha = _mm512_set1_ps(alpha);
        for row in 0..self.height {
            for half in 0..2 {
                let lanes = self.lanes(half);
                // SAFETY: only the columns of the mask are read and written.
                unsafe {
                    let to = self.output.wrapping_add(row * self.stride + 16 * half);
                    let v = _mm512_loadu_ps(sums.add(row * BLOCK + 16 * half));
                    let before = _mm512_maskz_loadu_ps(lanes, to);
                    let v = if add { _mm512_fmadd_ps(alpha, v, before) } else { _mm512_mul_ps(alpha, v) };
                    _mm512_mask_storeu_ps(to, lanes, v);
                }
            }
        }
    }
}
