//! The products in f32 on vectors, cut into tasks.
//!
//! A task is a range of rows by a range of columns. It walks the depth in blocks, packs the right operand's panel of a block into
//! the first-level cache ([`pack`]) and runs the tiles of its rows against it ([`microkernel`]). The tasks of a layer and of its
//! input's gradient are in [`block`], those of an adapter's own gradient in [`outer`].

mod block;
mod microkernel;
mod outer;
mod pack;

use super::scratch::{Area, Scratch, with_scratch};
use super::stack::{add_biases, columns};
use super::{Order, Right, Values};
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::{Simd, VectorTask};
use crate::cpu::{Cpu, Isa};
use crate::device::{Packed, Widened};
use crate::gemm::{Accumulate, Dw, Dx, Forward, LowRank, StackDx, StackForward};
use crate::{Columns, Device, Precision, Result, SliceMut};
use block::Block;
use outer::OuterSum;
use std::ops::Range;

/// Largest depth of a packed panel: 288 x 32 floats are 36 KiB of a first-level cache of 48 KiB (AVX-512), 288 x 16 are 18 KiB of
/// 32 KiB (AVX2), 288 x 8 are 9 KiB (NEON).
const DEPTH_BLOCK: usize = 288;
/// Largest number of rows of a task, before it is rounded up to whole tiles. 512 rows x 288 floats of the left operand are 576
/// KiB: they stay in the second-level cache while the panels pass.
const ROWS_PER_TASK: usize = 512;
/// Largest number of columns of a task. 512 rows x 256 columns of partial sums are 512 KiB, beside the left operand.
const COLS_PER_TASK: usize = 256;
/// If rows are split only to keep all threads busy, a task has at least about this many tiles of rows.
const LEAST_TILES: usize = 4;
/// Number of tasks for each thread. There are several, so that other threads can take over tasks of a thread that loses its core
/// for a while.
const TASKS_PER_THREAD: usize = 4;
/// Below this many multiplications (each weight counts 16 more, for its packing) waking a thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 20;

pub(super) fn forward(call: Forward<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Forward { m, n, k, alpha, x, w, y, accumulate, precision } = call;
    let x = cpu.widened(device, x)?;
    cpu.in_f32(device, y, accumulate == Accumulate::Add, |y| {
        let output = Output { at: y.as_mut_ptr(), stride: n };
        let right = Right { values: Values::of(w), order: Order::Columns };
        Product { rows: m, cols: n, depth: k, alpha, accumulate, precision, left: x.as_ptr(), right, output }.run(cpu);
        Ok(())
    })
}

pub(super) fn dx(call: Dx<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Dx { m, n, k, alpha, dy, w, dx, accumulate, precision } = call;
    let right = Right { values: Values::of(w), order: Order::Rows };
    let dy = dense(device, cpu, dy, n)?;
    cpu.in_f32(device, dx, accumulate == Accumulate::Add, |dx| {
        let output = Output { at: dx.as_mut_ptr(), stride: k };
        Product { rows: m, cols: k, depth: n, alpha, accumulate, precision, left: dy.as_ptr(), right, output }.run(cpu);
        Ok(())
    })
}

pub(super) fn dw(call: Dw<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Dw { m, n, k, alpha, dy, x, dw, accumulate, precision } = call;
    let (dy, x) = (dense(device, cpu, dy, n)?, cpu.widened(device, x)?);
    // the narrow side becomes the rows
    let turned = k < n;
    let [(rows, left), (cols, right)] = if turned { [(k, &*x), (n, &*dy)] } else { [(n, &*dy), (k, &*x)] };
    let output = dw.cpu().as_mut_ptr();
    OuterSum { depth: m, rows, cols, alpha, accumulate, precision, left, right, output, turned }.run(cpu);
    Ok(())
}

/// Computes a stack's outputs for one run of rows.
pub(super) fn stack_forward(call: StackForward<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let StackForward { m, k, x, pieces, y, residual, precision } = call;
    let cols = columns(pieces);
    let x = cpu.widened(device, x)?;
    cpu.in_f32(device, y, false, |y| {
        if let Some(residual) = residual {
            device.copy(residual, SliceMut::of_cpu(y))?;
        }
        let accumulate = if residual.is_some() { Accumulate::Add } else { Accumulate::Set };
        let mut first = 0;
        for piece in pieces.iter_mut() {
            let output = Output { at: y.as_mut_ptr().wrapping_add(first), stride: cols };
            first += piece.n;
            let by_columns = |w| Right { values: w, order: Order::Columns };
            let product = |depth, left, right, output, cols, alpha, accumulate| {
                Product { rows: m, cols, depth, alpha, accumulate, precision, left, right, output }.run(cpu);
            };
            product(k, x.as_ptr(), by_columns(Values::of(piece.w)), output, piece.n, 1.0, accumulate);
            if let Some(LowRank { rank, scaling, a, b, x: own_x, u, .. }) = piece.updates.first_mut() {
                let u = u.reborrow().cpu().as_mut_ptr();
                let inner = Output { at: u, stride: *rank };
                let own_x = own_x.map(|x| cpu.widened(device, x)).transpose()?;
                let x = own_x.as_ref().unwrap_or(&x);
                product(k, x.as_ptr(), by_columns(Values::F32(a.cpu())), inner, *rank, 1.0, Accumulate::Set);
                product(*rank, u, by_columns(Values::F32(b.cpu())), output, piece.n, *scaling, Accumulate::Add);
            }
        }
        add_biases(pieces, cols, y, cpu);
        Ok(())
    })
}

/// Computes the gradient of a stack's input for one run of rows.
pub(super) fn stack_dx(call: StackDx<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let StackDx { m, k, dy, pieces, dx, precision } = call;
    let cols = columns(pieces);
    cpu.in_f32(device, dx, false, |dx| {
        let output = Output { at: dx.as_mut_ptr(), stride: k };
        let mut first = 0;
        let mut accumulate = Accumulate::Set;
        for piece in pieces.iter_mut() {
            let n = piece.n;
            let dy = dense(device, cpu, Columns { values: dy, first, stride: cols }, n)?;
            first += n;
            let rows = |w| Right { values: w, order: Order::Rows };
            let product = |depth, left, right, output, cols, alpha, accumulate| {
                Product { rows: m, cols, depth, alpha, accumulate, precision, left, right, output }.run(cpu);
            };
            product(n, dy.as_ptr(), rows(Values::of(piece.w)), output, k, 1.0, accumulate);
            accumulate = Accumulate::Add;
            if let Some(LowRank { rank, scaling, a, b, u: du, .. }) = piece.updates.first_mut() {
                let du = du.reborrow().cpu().as_mut_ptr();
                let inner = Output { at: du, stride: *rank };
                product(n, dy.as_ptr(), rows(Values::F32(b.cpu())), inner, *rank, *scaling, Accumulate::Set);
                product(*rank, du, rows(Values::F32(a.cpu())), output, k, 1.0, Accumulate::Add);
            }
        }
        Ok(())
    })
}

/// Returns the bytes that the threads keep for packing after products `[rows, depth] · [depth, cols]` with these rows or fewer.
pub(super) fn packed(
    cpu: &Cpu,
    precision: Precision,
    accumulate: Accumulate,
    [rows, cols, depth]: [usize; 3],
) -> Packed {
    let right = Right { values: Values::F32(&[]), order: Order::Rows };
    let output = Output { at: std::ptr::null_mut(), stride: 0 };
    let product =
        Product { rows, cols, depth, alpha: 1.0, accumulate, precision, left: std::ptr::null(), right, output };
    let areas = |rows, cols| cpu.isa().dispatch(block::Areas { product: &product, rows, cols });
    // one thread alone has larger tasks than several threads have; in both cases a task needs the most memory if it has as many
    // rows as it may have
    let on_one_thread = ((PARALLEL_WORK - 1) / (cols * depth).max(1)).saturating_sub(16);
    let whole = |part: usize, most: usize| (1..=rows.min(most) / part).map(move |parts| parts * part);
    let [tile_rows, _] = cpu.isa().dispatch(TileSize);
    let sizes = whole(LEAST_TILES * tile_rows, ROWS_PER_TASK).chain(whole(ROWS_PER_TASK, rows));
    let packed = |rows| Cut::new(cpu, [rows, cols, depth]).packed(areas);
    sizes.chain([rows, rows.min(on_one_thread)]).map(packed).fold(Packed::default(), Packed::and)
}

/// Returns the bytes that the threads keep for packing after [`dw`] with `m` rows or fewer.
pub(super) fn packed_by_dw(cpu: &Cpu, [m, n, k]: [usize; 3]) -> Packed {
    let packed =
        |m| Cut::new(cpu, [n.min(k), n.max(k), m]).packed(|rows, cols| cpu.isa().dispatch(outer::Areas { rows, cols }));
    packed(m).and(packed(0))
}

/// Returns `n` columns of a matrix as a separate matrix in f32. Makes a copy, unless these are all columns and already in f32.
fn dense<'a>(device: &Device, cpu: &Cpu, columns: Columns<'a>, n: usize) -> Result<Widened<'a>> {
    let Columns { values, first, stride } = columns;
    if n == stride {
        return cpu.widened(device, values);
    }
    let values = cpu.widened(device, values)?;
    let mut copy = device.alloc("gemm.columns", values.len() / stride * n)?;
    if n > 0 {
        let block = rows_per_block(stride);
        let blocks = values.chunks(block * stride).zip(copy.view_mut().cpu().chunks_mut(block * n));
        cpu.for_each_block(blocks, |(from, to)| {
            for (from, to) in from.chunks_exact(stride).zip(to.chunks_exact_mut(n)) {
                to.copy_from_slice(&from[first..first + n]);
            }
        });
    }
    Ok(Widened::Copy(copy))
}

/// `output[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`
struct Product<'a> {
    rows: usize,
    cols: usize,
    depth: usize,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    /// `[rows, depth]`. It is a pointer because the second product of an update reads `u`, which the first one wrote.
    left: *const f32,
    right: Right<'a>,
    output: Output,
}

// SAFETY: tasks read operands that nobody writes meanwhile, and write disjoint parts of the output.
unsafe impl Sync for Product<'_> {}

/// Where the output starts. Every task writes its own rows and columns of it.
#[derive(Clone, Copy)]
struct Output {
    at: *mut f32,
    /// Elements from row to row.
    stride: usize,
}
// SAFETY: tasks write disjoint elements of the output, and the caller's exclusive borrow of it outlives all tasks.
unsafe impl Sync for Output {}

impl Product<'_> {
    fn run(&self, cpu: &Cpu) {
        Cut::new(cpu, [self.rows, self.cols, self.depth])
            .run(cpu, |rows, cols, scratch| cpu.isa().dispatch(Block { product: self, rows, cols, scratch }));
    }

    /// Cuts the depth into as many blocks as needed. All have the same length, a multiple of 32 (whole vectors of 16-bit
    /// weights), except that the last has what remains.
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
        // SAFETY: the caller guarantees what `right_panels` requires.
        unsafe {
            pack::right_panels::<S>(self.right, [self.depth, self.cols], depth, cols, self.precision, panels);
        }
    }
}

/// How an output is cut into tasks.
struct Cut {
    rows: usize,
    cols: usize,
    threads: usize,
    rows_per_task: usize,
    cols_per_task: usize,
}

impl Cut {
    fn new(cpu: &Cpu, [rows, cols, depth]: [usize; 3]) -> Cut {
        let work = (rows + 16).saturating_mul(cols).saturating_mul(depth);
        let threads = if work < PARALLEL_WORK { 1 } else { cpu.threads() };
        let [rows_per_task, cols_per_task] = match rows == 0 || cols == 0 {
            true => [1, 1],
            false => task_size(cpu.isa(), threads, rows, cols),
        };
        Cut { rows, cols, threads, rows_per_task, cols_per_task }
    }

    /// Returns the bytes that the threads keep for packing. `areas(rows, cols)` returns the floats that a task needs in each area.
    fn packed(&self, areas: impl Fn(usize, usize) -> [usize; 3]) -> Packed {
        // a task at an edge is smaller, and may be computed in another way
        let sizes =
            |all: usize, per_task: usize| [all.min(per_task), all % per_task].into_iter().filter(|size| *size > 0);
        let mut packed = Packed::default();
        for rows in sizes(self.rows, self.rows_per_task) {
            for cols in sizes(self.cols, self.cols_per_task) {
                let areas = areas(rows, cols).map(Area::bytes_of);
                packed = packed.and(Packed::areas(areas, self.threads > 1));
            }
        }
        packed
    }

    /// Runs `task(rows, cols, scratch)` for each task. The columns of a task start at a panel's first column.
    fn run(&self, cpu: &Cpu, task: impl Fn(Range<usize>, Range<usize>, &mut Scratch) + Sync) {
        let &Cut { rows, cols, threads, rows_per_task, cols_per_task } = self;
        let col_tasks = cols.div_ceil(cols_per_task);
        let tasks = rows.div_ceil(rows_per_task) * col_tasks;
        // neighbours share their rows, which stay in the second-level cache of a thread that runs both
        let run_task = |index: usize| {
            let (row, col) = (index / col_tasks * rows_per_task, index % col_tasks * cols_per_task);
            let (rows, cols) = (row..(row + rows_per_task).min(rows), col..(col + cols_per_task).min(cols));
            with_scratch(|scratch| task(rows, cols, scratch));
        };
        if threads == 1 {
            (0..tasks).for_each(run_task);
        } else {
            cpu.parallel(tasks, |_, number| run_task(number));
        }
    }
}

/// Returns the rows and columns of a task. Columns are split before rows, because a task packs the panels of its columns itself.
fn task_size(isa: Isa, threads: usize, rows: usize, cols: usize) -> [usize; 2] {
    let [tile_rows, tile_cols] = isa.dispatch(TileSize);
    let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
    let panels = cols.div_ceil(tile_cols);
    let mut row_tasks = rows.div_ceil(ROWS_PER_TASK);
    let col_tasks = wanted.div_ceil(row_tasks).clamp(cols.div_ceil(COLS_PER_TASK), panels);
    // too few columns for all threads: split the rows too
    row_tasks = row_tasks.max(wanted.div_ceil(col_tasks).min(rows.div_ceil(LEAST_TILES * tile_rows)));
    [rows.div_ceil(row_tasks).next_multiple_of(tile_rows), panels.div_ceil(col_tasks) * tile_cols]
}

/// Returns the rows and columns of a full tile.
struct TileSize;

impl VectorTask for TileSize {
    type Output = [usize; 2];
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [usize; 2] {
        [microkernel::tile_rows::<S>(usize::MAX), microkernel::TILE_VECTORS * S::LANES]
    }
}
