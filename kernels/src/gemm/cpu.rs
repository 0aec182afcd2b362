//! The products as `output[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`, cut into tasks.
//!
//! A task is a range of rows by a range of columns. It walks the depth in blocks, packs the right operand's panel of a block
//! into the first-level cache ([`pack`]) and runs the tiles of its rows against it ([`microkernel`]): [`block`] for a layer and
//! its input's gradient, [`outer`] for an adapter's own gradient.
//!
//! The bits of an output element are a function of its own operands and of the depth: within a block one accumulator takes the
//! products in order, the blocks' sums are added in order, and where the blocks end depends on the depth alone. So neither the
//! number of rows nor the number of threads nor a tile's edge shows in them.

mod block;
mod microkernel;
mod outer;
mod pack;
mod scratch;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::{Accumulate, Dw, Dx, Forward, LowRank};
use crate::cpu::Isa;
use crate::cpu::simd::{Simd, VectorTask};
use crate::device::Cpu;
use crate::{Precision, Slice, SliceMut, WeightSlice};
use block::Block;
use half::{bf16, f16};
use outer::OuterSum;
use rayon::prelude::*;
use scratch::{Scratch, with_scratch};
use std::ops::Range;

/// Largest depth of a packed panel: 288 x 32 floats are 36 KiB of a first-level cache of 48 (AVX-512), 288 x 16 are 18 of 32.
const DEPTH_BLOCK: usize = 288;
/// 512 rows x 288 floats of the left operand are 576 KiB: they stay in the second-level cache while the panels pass.
const ROWS_PER_TASK: usize = 512;
/// 512 rows x 256 columns of partial sums are 512 KiB, beside the left operand.
const COLS_PER_TASK: usize = 256;
/// Enough tasks for each thread that one which loses its core for a while does not make the others wait.
const TASKS_PER_THREAD: usize = 4;
/// Below this many multiplications (each weight counts 16 more, for its packing) waking a thread costs more than it brings.
const PARALLEL_WORK: usize = 1 << 20;

pub(super) fn forward(call: Forward<'_>, update: Option<LowRank<'_>>, cpu: &Cpu) {
    Product::forward(call).run_with(update, cpu);
}

pub(super) fn dx(call: Dx<'_>, update: Option<LowRank<'_>>, cpu: &Cpu) {
    Product::dx(call).run_with(update, cpu);
}

pub(super) fn dw(call: Dw<'_>, cpu: &Cpu) {
    let (Slice::Cpu(dy), Slice::Cpu(x), SliceMut::Cpu(dw)) = (call.dy, call.x, call.dw);
    #[cfg(target_arch = "x86_64")]
    {
        let product = Product {
            rows: call.n,
            cols: call.k,
            depth: call.m,
            alpha: call.alpha,
            accumulate: call.accumulate,
            precision: call.precision,
            left: Left::Columns(dy.as_ptr()),
            right: Right { values: Values::F32(x), order: Order::Rows },
            output: Output(dw.as_mut_ptr()),
        };
        if product.fits_tiles(cpu) {
            return product.run_on_tiles(cpu);
        }
    }
    // the narrow side first
    let turned = call.k < call.n;
    let [(rows, left), (cols, right)] = if turned { [(call.k, x), (call.n, dy)] } else { [(call.n, dy), (call.k, x)] };
    OuterSum {
        depth: call.m,
        rows,
        cols,
        alpha: call.alpha,
        accumulate: call.accumulate,
        precision: call.precision,
        left,
        right,
        output: Output(dw.as_mut_ptr()),
        turned,
    }
    .run(cpu);
}

/// `output[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`
struct Product<'a> {
    rows: usize,
    cols: usize,
    depth: usize,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    left: Left,
    right: Right<'a>,
    output: Output,
}

// SAFETY: tasks read operands that nobody writes meanwhile, and write the output, see `Output`.
unsafe impl Sync for Product<'_> {}

/// The left operand and how it lies. Pointers, because a task of an update reads what it has just written.
#[derive(Clone, Copy)]
enum Left {
    /// `[rows, depth]`
    Rows(*const f32),
    /// `[depth, rows]`
    #[cfg(target_arch = "x86_64")]
    Columns(*const f32),
}

/// The right operand and how it lies.
#[derive(Clone, Copy)]
struct Right<'a> {
    values: Values<'a>,
    order: Order,
}

#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

#[derive(Clone, Copy)]
enum Order {
    /// `[depth, cols]`
    Rows,
    /// `[cols, depth]`
    Columns,
}

/// Where the output starts. Every task writes its own rows and columns of it.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: tasks write disjoint elements, and the caller's exclusive borrow outlives them all.
unsafe impl Sync for Output {}

impl<'a> Values<'a> {
    fn of(weights: WeightSlice<'a>) -> Values<'a> {
        match weights {
            WeightSlice::F32(Slice::Cpu(values)) => Values::F32(values),
            WeightSlice::F16(Slice::Cpu(values)) => Values::F16(values),
            WeightSlice::Bf16(Slice::Cpu(values)) => Values::Bf16(values),
        }
    }
}

impl<'a> Product<'a> {
    fn forward(call: Forward<'a>) -> Product<'a> {
        let (Slice::Cpu(x), SliceMut::Cpu(y)) = (call.x, call.y);
        Product {
            rows: call.m,
            cols: call.n,
            depth: call.k,
            alpha: call.alpha,
            accumulate: call.accumulate,
            precision: call.precision,
            left: Left::Rows(x.as_ptr()),
            right: Right { values: Values::of(call.w), order: Order::Columns },
            output: Output(y.as_mut_ptr()),
        }
    }

    fn dx(call: Dx<'a>) -> Product<'a> {
        let (Slice::Cpu(dy), SliceMut::Cpu(dx)) = (call.dy, call.dx);
        Product {
            rows: call.m,
            cols: call.k,
            depth: call.n,
            alpha: call.alpha,
            accumulate: call.accumulate,
            precision: call.precision,
            left: Left::Rows(dy.as_ptr()),
            right: Right { values: Values::of(call.w), order: Order::Rows },
            output: Output(dx.as_mut_ptr()),
        }
    }

    fn run(&self, cpu: &Cpu) {
        #[cfg(target_arch = "x86_64")]
        if self.fits_tiles(cpu) {
            return self.run_on_tiles(cpu);
        }
        run_tasks(cpu, [self.rows, self.cols, self.depth], |rows, cols, scratch| {
            cpu.isa().dispatch(Block { product: self, rows, cols, scratch })
        });
    }

    fn run_with(&self, update: Option<LowRank<'a>>, cpu: &Cpu) {
        let Some(update) = update.filter(|update| update.rows > 0 && update.rank > 0) else { return self.run(cpu) };
        let update = self.update(update);
        #[cfg(target_arch = "x86_64")]
        if self.fits_tiles(cpu) {
            return self.run_with_on_tiles(&update, cpu);
        }
        self.run(cpu);
        update.into_iter().for_each(|product| product.run(cpu));
    }

    /// The two products of an update, to be run in this order after this one: into `between`, and from there to the output.
    fn update(&self, update: LowRank<'a>) -> [Product<'a>; 2] {
        let LowRank { rows, rank, scaling, .. } = update;
        let (Slice::Cpu(a), Slice::Cpu(b), SliceMut::Cpu(between)) = (update.a, update.b, update.between);
        let order = self.right.order;
        let [(down, down_alpha), (up, up_alpha)] = match order {
            Order::Columns => [(a, 1.0), (b, scaling)],
            Order::Rows => [(b, scaling), (a, 1.0)],
        };
        let (between, precision) = (between.as_mut_ptr(), self.precision);
        let down = Product {
            rows,
            cols: rank,
            depth: self.depth,
            alpha: down_alpha,
            accumulate: Accumulate::Set,
            precision,
            left: self.left,
            right: Right { values: Values::F32(down), order },
            output: Output(between),
        };
        let up = Product {
            rows,
            cols: self.cols,
            depth: rank,
            alpha: up_alpha,
            accumulate: Accumulate::Add,
            precision,
            left: Left::Rows(between),
            right: Right { values: Values::F32(up), order },
            output: self.output,
        };
        [down, up]
    }

    /// The depth in blocks: as many as needed, nearly equal, multiples of 32 (whole vectors of 16-bit weights).
    fn depth_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let depth = self.depth;
        let blocks = depth.div_ceil(DEPTH_BLOCK).max(1);
        let size = depth.div_ceil(blocks).next_multiple_of(32);
        (0..blocks).map(move |block| block * size..((block + 1) * size).min(depth))
    }

    /// # Safety
    /// As [`pack::right_panels`].
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, depth: Range<usize>, cols: Range<usize>, panels: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            pack::right_panels::<S>(self.right, [self.depth, self.cols], depth, cols, self.precision, panels);
        }
    }
}

/// Cuts an output into tasks and runs them: `task(rows, cols, scratch)`, the columns starting at a panel's first.
fn run_tasks(
    cpu: &Cpu,
    [rows, cols, depth]: [usize; 3],
    task: impl Fn(Range<usize>, Range<usize>, &mut Scratch) + Sync,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let work = (rows + 16).saturating_mul(cols).saturating_mul(depth);
    let threads = if work < PARALLEL_WORK { 1 } else { cpu.threads() };
    let [rows_per_task, cols_per_task] = task_size(cpu.isa(), threads, rows, cols);
    let col_tasks = cols.div_ceil(cols_per_task);
    let tasks = rows.div_ceil(rows_per_task) * col_tasks;
    // neighbours share their rows, which stay in the second-level cache of the thread that runs both
    let run_task = |index: usize| {
        let (row, col) = (index / col_tasks * rows_per_task, index % col_tasks * cols_per_task);
        let (rows, cols) = (row..(row + rows_per_task).min(rows), col..(col + cols_per_task).min(cols));
        with_scratch(|scratch| task(rows, cols, scratch));
    };
    if threads == 1 {
        (0..tasks).for_each(run_task);
    } else {
        cpu.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(run_task));
    }
}

/// Rows and columns of a task. Columns are split before rows, because a task packs the panels of its columns itself.
fn task_size(isa: Isa, threads: usize, rows: usize, cols: usize) -> [usize; 2] {
    let [tile_rows, tile_cols] = isa.dispatch(TileSize);
    let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
    let panels = cols.div_ceil(tile_cols);
    let mut row_tasks = rows.div_ceil(ROWS_PER_TASK);
    let col_tasks = wanted.div_ceil(row_tasks).clamp(cols.div_ceil(COLS_PER_TASK), panels);
    // too few columns for all threads: rows too, but not fewer than 4 tiles of them
    row_tasks = row_tasks.max(wanted.div_ceil(col_tasks).min(rows.div_ceil(4 * tile_rows)));
    [rows.div_ceil(row_tasks).next_multiple_of(tile_rows), panels.div_ceil(col_tasks) * tile_cols]
}

/// Rows and columns of the full tile.
struct TileSize;

impl VectorTask for TileSize {
    type Output = [usize; 2];
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [usize; 2] {
        [microkernel::tile_rows::<S>(usize::MAX), microkernel::TILE_VECTORS * S::LANES]
    }
}
