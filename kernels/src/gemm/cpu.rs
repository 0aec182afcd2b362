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
pub(super) mod cost;
mod microkernel;
mod outer;
mod pack;
mod scratch;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::{Accumulate, Dw, Dx, Forward, LowRank, Piece, StackDx, StackForward};
use crate::cpu::Isa;
use crate::cpu::blocks::rows_per_block;
use crate::cpu::convert::Widened;
use crate::cpu::simd::{Simd, VectorTask};
#[cfg(target_arch = "x86_64")]
use crate::cpu::tiles::microkernel::{BLOCK, Unit};
use crate::device::Cpu;
use crate::{Columns, Device, FloatSlice, FloatSliceMut, Precision, Result, Slice, SliceMut, WeightSlice};
use block::Block;
use half::{bf16, f16};
use outer::OuterSum;
use scratch::{Scratch, with_scratch};
use std::ops::Range;

/// Largest depth of a packed panel: 288 x 32 floats are 36 KiB of a first-level cache of 48 (AVX-512), 288 x 16 are 18 of 32,
/// 288 x 8 are 9 (NEON).
const DEPTH_BLOCK: usize = 288;
/// 512 rows x 288 floats of the left operand are 576 KiB: they stay in the second-level cache while the panels pass.
const ROWS_PER_TASK: usize = 512;
/// 512 rows x 256 columns of partial sums are 512 KiB, beside the left operand.
const COLS_PER_TASK: usize = 256;
/// Enough tasks for each thread that one which loses its core for a while does not make the others wait.
const TASKS_PER_THREAD: usize = 4;
/// Below this many multiplications (each weight counts 16 more, for its packing) waking a thread costs more than it brings.
const PARALLEL_WORK: usize = 1 << 20;

pub(super) fn forward(call: Forward<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Forward { m, n, k, alpha, x, w, y, accumulate, precision } = call;
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = tiles::unit(cpu, precision, [[n, k]]) {
        let right = Right { values: Values::of(w), order: Order::Columns };
        on_tiles(unit, [m, n, k], left_rows(x, k), right, alpha, accumulate, precision, y, cpu);
        return Ok(());
    }
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
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = tiles::unit(cpu, precision, [[n, k]]) {
        let mut left = left_rows(dy.values, n);
        (left.values, left.stride) = (left.values.skip(dy.first), dy.stride);
        on_tiles(unit, [m, k, n], left, right, alpha, accumulate, precision, dx, cpu);
        return Ok(());
    }
    let dy = dense(device, cpu, dy, n)?;
    cpu.in_f32(device, dx, accumulate == Accumulate::Add, |dx| {
        let output = Output { at: dx.as_mut_ptr(), stride: k };
        Product { rows: m, cols: k, depth: n, alpha, accumulate, precision, left: dy.as_ptr(), right, output }.run(cpu);
        Ok(())
    })
}

pub(super) fn dw(call: Dw<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let Dw { m, n, k, alpha, dy, x, dw, accumulate, precision } = call;
    #[cfg(target_arch = "x86_64")]
    if let (1.., Some(unit)) = (m, tiles::unit(cpu, precision, [[n, k]])) {
        let values = match x {
            FloatSlice::F32(x) => Values::F32(x.cpu()),
            FloatSlice::Bf16(x) => Values::Bf16(x.cpu()),
        };
        let values_of_dy = tiles::LeftValues::from(dy.values);
        let left =
            tiles::LeftPart { values: values_of_dy.skip(dy.first), stride: dy.stride, depth: m, order: Order::Rows };
        on_tiles(
            unit,
            [n, k, m],
            left,
            Right { values, order: Order::Rows },
            alpha,
            accumulate,
            precision,
            dw.into(),
            cpu,
        );
        return Ok(());
    }
    let (dy, x) = (dense(device, cpu, dy, n)?, cpu.widened(device, x)?);
    // the narrow side first
    let turned = k < n;
    let [(rows, left), (cols, right)] = if turned { [(k, &*x), (n, &*dy)] } else { [(n, &*dy), (k, &*x)] };
    let output = dw.cpu().as_mut_ptr();
    OuterSum { depth: m, rows, cols, alpha, accumulate, precision, left, right, output, turned }.run(cpu);
    Ok(())
}

/// A layer of a stack, for rows in which it has one update at most.
struct Layer<'a> {
    n: usize,
    w: WeightSlice<'a>,
    bias: Option<Slice<'a, f32>>,
    update: Option<Update<'a>>,
}

/// An update of the rows of a run.
struct Update<'a> {
    rank: usize,
    scaling: f32,
    a: &'a [f32],
    b: &'a [f32],
    /// What it reads instead of the stack's input.
    x: Option<FloatSlice<'a>>,
    /// `[rows, rank]`
    u: &'a mut [f32],
}

impl<'a> Layer<'a> {
    /// A layer for the rows of a run of a stack of depth `k`.
    fn new(piece: &'a mut Piece<'_>, rows: &Range<usize>, k: usize) -> Layer<'a> {
        let update = piece.updates.iter_mut().find(|update| update.rows.contains(&rows.start));
        Layer { n: piece.n, w: piece.w, bias: piece.bias, update: update.map(|update| Update::new(update, rows, k)) }
    }
}

impl<'a> Update<'a> {
    fn new(update: &'a mut LowRank<'_>, rows: &Range<usize>, k: usize) -> Update<'a> {
        let rank = update.rank;
        let own = rows.start - update.rows.start..rows.end - update.rows.start;
        Update {
            rank,
            scaling: update.scaling,
            a: update.a.cpu(),
            b: update.b.cpu(),
            x: update.x.map(|x| x.range(own.start * k..own.end * k)),
            u: update.u.reborrow().range(own.start * rank..own.end * rank).cpu(),
        }
    }
}

/// The rows of a stack, cut wherever an update begins or ends.
fn runs(m: usize, pieces: &[Piece<'_>]) -> Vec<Range<usize>> {
    let updates = pieces.iter().flat_map(|piece| &piece.updates);
    let mut cuts: Vec<usize> = updates.flat_map(|update| [update.rows.start, update.rows.end]).chain([0, m]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
}

pub(super) fn stack_forward(call: StackForward<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let StackForward { m, k, x, pieces, mut y, residual, precision } = call;
    let cols: usize = pieces.iter().map(|piece| piece.n).sum();
    for rows in runs(m, pieces) {
        let place = rows.start * cols..rows.end * cols;
        let run = StackRun {
            m: rows.len(),
            k,
            cols,
            x: x.range(rows.start * k..rows.end * k),
            layers: pieces.iter_mut().map(|piece| Layer::new(piece, &rows, k)).collect(),
            y: y.reborrow().range(place.clone()),
            residual: residual.map(|residual| residual.range(place)),
            precision,
        };
        run.forward(device, cpu)?;
    }
    Ok(())
}

/// Rows of a [`StackForward`] between two cuts.
struct StackRun<'a> {
    m: usize,
    k: usize,
    /// Of all layers.
    cols: usize,
    x: FloatSlice<'a>,
    layers: Vec<Layer<'a>>,
    y: FloatSliceMut<'a>,
    residual: Option<Slice<'a, f32>>,
    precision: Precision,
}

impl StackRun<'_> {
    fn forward(self, device: &Device, cpu: &Cpu) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = tiles::unit(cpu, self.precision, self.layers.iter().map(|layer| [layer.n, self.k])) {
            return stack_forward_on_tiles(unit, self, device, cpu);
        }
        let StackRun { m, k, cols, x, mut layers, y, residual, precision } = self;
        let x = cpu.widened(device, x)?;
        cpu.in_f32(device, y, false, |y| {
            if let Some(residual) = residual {
                device.copy(residual, SliceMut::of_cpu(y));
            }
            let accumulate = if residual.is_some() { Accumulate::Add } else { Accumulate::Set };
            let mut first = 0;
            for layer in &mut layers {
                let output = Output { at: y.as_mut_ptr().wrapping_add(first), stride: cols };
                first += layer.n;
                let columns = |w| Right { values: w, order: Order::Columns };
                let product = |depth, left, right, output, cols, alpha, accumulate| {
                    Product { rows: m, cols, depth, alpha, accumulate, precision, left, right, output }.run(cpu);
                };
                product(k, x.as_ptr(), columns(Values::of(layer.w)), output, layer.n, 1.0, accumulate);
                if let Some(Update { rank, scaling, a, b, x: own_x, u }) = &mut layer.update {
                    let u = u.as_mut_ptr();
                    let inner = Output { at: u, stride: *rank };
                    let own_x = own_x.map(|x| cpu.widened(device, x)).transpose()?;
                    let x = own_x.as_ref().unwrap_or(&x);
                    product(k, x.as_ptr(), columns(Values::F32(a)), inner, *rank, 1.0, Accumulate::Set);
                    product(*rank, u, columns(Values::F32(b)), output, layer.n, *scaling, Accumulate::Add);
                }
            }
            add_biases(&layers, cols, y, cpu);
            Ok(())
        })
    }
}

pub(super) fn stack_dx(call: StackDx<'_, '_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let StackDx { m, k, dy, pieces, mut dx, precision } = call;
    let cols: usize = pieces.iter().map(|piece| piece.n).sum();
    for rows in runs(m, pieces) {
        let run = StackDxRun {
            m: rows.len(),
            k,
            cols,
            dy: dy.range(rows.start * cols..rows.end * cols),
            layers: pieces.iter_mut().map(|piece| Layer::new(piece, &rows, k)).collect(),
            dx: dx.reborrow().range(rows.start * k..rows.end * k),
            precision,
        };
        run.dx(device, cpu)?;
    }
    Ok(())
}

/// Rows of a [`StackDx`] between two cuts.
struct StackDxRun<'a> {
    m: usize,
    k: usize,
    /// Of all layers.
    cols: usize,
    dy: FloatSlice<'a>,
    layers: Vec<Layer<'a>>,
    dx: FloatSliceMut<'a>,
    precision: Precision,
}

impl StackDxRun<'_> {
    fn dx(self, device: &Device, cpu: &Cpu) -> Result<()> {
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = tiles::unit(cpu, self.precision, self.layers.iter().map(|layer| [layer.n, self.k])) {
            stack_dx_on_tiles(unit, self, cpu);
            return Ok(());
        }
        let StackDxRun { m, k, cols, dy, mut layers, dx, precision } = self;
        cpu.in_f32(device, dx, false, |dx| {
            let output = Output { at: dx.as_mut_ptr(), stride: k };
            let mut first = 0;
            let mut accumulate = Accumulate::Set;
            for layer in &mut layers {
                let n = layer.n;
                let dy = dense(device, cpu, Columns { values: dy, first, stride: cols }, n)?;
                first += n;
                let rows = |w| Right { values: w, order: Order::Rows };
                let product = |depth, left, right, output, cols, alpha, accumulate| {
                    Product { rows: m, cols, depth, alpha, accumulate, precision, left, right, output }.run(cpu);
                };
                product(n, dy.as_ptr(), rows(Values::of(layer.w)), output, k, 1.0, accumulate);
                accumulate = Accumulate::Add;
                if let Some(Update { rank, scaling, a, b, u: du, .. }) = &mut layer.update {
                    let du = du.as_mut_ptr();
                    let inner = Output { at: du, stride: *rank };
                    product(n, dy.as_ptr(), rows(Values::F32(b)), inner, *rank, *scaling, Accumulate::Set);
                    product(*rank, du, rows(Values::F32(a)), output, k, 1.0, Accumulate::Add);
                }
            }
            Ok(())
        })
    }
}

/// Whether all matrices of `depth` by one of `sides` are multiplied on the unit.
#[cfg(target_arch = "x86_64")]
fn all_on_unit(cpu: &Cpu, precision: Precision, depth: usize, sides: impl IntoIterator<Item = usize>) -> bool {
    tiles::unit(cpu, precision, sides.into_iter().map(|side| [side, depth])).is_some()
}

/// There is no unit.
#[cfg(not(target_arch = "x86_64"))]
fn all_on_unit(_: &Cpu, _: Precision, _: usize, _: impl IntoIterator<Item = usize>) -> bool {
    false
}

/// Adds the biases of a stack to rows of all its columns.
fn add_biases(layers: &[Layer<'_>], cols: usize, y: &mut [f32], cpu: &Cpu) {
    if cols == 0 || layers.iter().all(|layer| layer.bias.is_none()) {
        return;
    }
    cpu.for_each_block(y.chunks_mut(rows_per_block(cols) * cols), |rows| {
        for row in rows.chunks_exact_mut(cols) {
            let mut row = &mut row[..];
            for layer in layers {
                let (y, rest) = row.split_at_mut(layer.n);
                if let Some(bias) = layer.bias {
                    y.iter_mut().zip(bias.cpu()).for_each(|(y, bias)| *y += bias);
                }
                row = rest;
            }
        }
    });
}

/// Columns of a matrix as a matrix of their own, in f32: in place, or copied.
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

/// Rows along the depth.
#[cfg(target_arch = "x86_64")]
fn left_rows(values: FloatSlice<'_>, depth: usize) -> tiles::LeftPart {
    tiles::LeftPart { values: values.into(), stride: depth, depth, order: Order::Columns }
}

/// One product.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::too_many_arguments, reason = "the fields of the calls, which differ in their names alone")]
fn on_tiles(
    unit: Unit,
    [rows, cols, _]: [usize; 3],
    left: tiles::LeftPart,
    right: Right<'_>,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    output: FloatSliceMut<'_>,
    cpu: &Cpu,
) {
    let start = if accumulate == Accumulate::Add { tiles::Start::Output } else { tiles::Start::Zero };
    let output = tiles::Output { at: output.into(), stride: cols };
    let sections = vec![tiles::Section { part: 0, right }];
    let targets = vec![tiles::Target { cols, sections, alpha, start, output }];
    tiles::Tiled { unit, rows, precision, left: vec![left], downs: Vec::new(), targets }.run(cpu);
}

#[cfg(target_arch = "x86_64")]
fn stack_forward_on_tiles(unit: Unit, run: StackRun<'_>, device: &Device, cpu: &Cpu) -> Result<()> {
    let StackRun { m, k, cols, x, mut layers, mut y, residual, precision } = run;
    // the sums begin with the residual or with the bias; where there are both, the bias comes last
    let rows_of_bias: Vec<Option<Vec<f32>>> = (layers.iter())
        .map(|layer| {
            let bias = layer.bias.filter(|_| residual.is_none())?.cpu();
            let mut row = bias.to_vec();
            row.resize(bias.len().next_multiple_of(BLOCK), 0.0);
            Some(row)
        })
        .collect();
    let at = tiles::OutputValues::from(y.reborrow());
    let mut tiled =
        tiles::Tiled { unit, rows: m, precision, left: vec![left_rows(x, k)], downs: Vec::new(), targets: Vec::new() };
    // inputs of their own stand before everything that is computed from them
    let own_inputs = layers.iter().filter_map(|layer| layer.update.as_ref()?.x);
    tiled.left.extend(own_inputs.map(|x| left_rows(x, k)));
    let (mut first, mut own_part) = (0, 0);
    for (layer, bias) in layers.iter_mut().zip(&rows_of_bias) {
        let columns = |values| Right { values, order: Order::Columns };
        let mut sections = vec![tiles::Section { part: 0, right: columns(Values::of(layer.w)) }];
        let has_own = layer.update.as_ref().is_some_and(|update| update.x.is_some());
        own_part += usize::from(has_own);
        if let Some(Update { rank, scaling, a, b, u, .. }) = layer.update.as_mut().filter(|update| update.rank > 0) {
            let part = tiled.left.len() + tiled.downs.len();
            sections.push(tiles::Section { part, right: columns(Values::F32(b)) });
            tiled.downs.push(tiles::Down {
                section: tiles::Section { part: if has_own { own_part } else { 0 }, right: columns(Values::F32(a)) },
                rank: *rank,
                alpha: 1.0,
                scale: *scaling,
                u: u.as_mut_ptr(),
            });
        }
        let start = match (residual, bias) {
            (Some(residual), _) => tiles::Start::Matrix(residual.cpu().as_ptr().wrapping_add(first)),
            (None, Some(bias)) => tiles::Start::Row(bias.as_ptr()),
            (None, None) => tiles::Start::Zero,
        };
        let output = tiles::Output { at: at.skip(first), stride: cols };
        tiled.targets.push(tiles::Target { cols: layer.n, sections, alpha: 1.0, start, output });
        first += layer.n;
    }
    tiled.run(cpu);
    match residual {
        Some(_) => cpu.in_f32(device, y, true, |y| {
            add_biases(&layers, cols, y, cpu);
            Ok(())
        }),
        None => Ok(()),
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_dx_on_tiles(unit: Unit, run: StackDxRun<'_>, cpu: &Cpu) {
    let StackDxRun { m, k, cols: stride, dy, mut layers, dx, precision } = run;
    let rows = |values| Right { values, order: Order::Rows };
    let (mut left, mut downs, mut sections) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    let parts = layers.len();
    for (part, layer) in layers.iter_mut().enumerate() {
        let values = tiles::LeftValues::from(dy).skip(first);
        left.push(tiles::LeftPart { values, stride, depth: layer.n, order: Order::Columns });
        sections.push(tiles::Section { part, right: rows(Values::of(layer.w)) });
        if let Some(Update { rank, scaling, a, b, u: du, .. }) = layer.update.as_mut().filter(|update| update.rank > 0)
        {
            sections.push(tiles::Section { part: parts + downs.len(), right: rows(Values::F32(a)) });
            downs.push(tiles::Down {
                section: tiles::Section { part, right: rows(Values::F32(b)) },
                rank: *rank,
                alpha: *scaling,
                scale: 1.0,
                u: du.as_mut_ptr(),
            });
        }
        first += layer.n;
    }
    let output = tiles::Output { at: dx.into(), stride: k };
    let targets = vec![tiles::Target { cols: k, sections, alpha: 1.0, start: tiles::Start::Zero, output }];
    tiles::Tiled { unit, rows: m, precision, left, downs, targets }.run(cpu);
}

/// `output[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`
struct Product<'a> {
    rows: usize,
    cols: usize,
    depth: usize,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    /// `[rows, depth]`. A pointer, because an update reads what has just been written.
    left: *const f32,
    right: Right<'a>,
    output: Output,
}

// SAFETY: tasks read operands that nobody writes meanwhile, and write the output, see `Output`.
unsafe impl Sync for Product<'_> {}

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// `[depth, cols]`
    Rows,
    /// `[cols, depth]`
    Columns,
}

/// Where the output starts. Every task writes its own rows and columns of it.
#[derive(Clone, Copy)]
struct Output {
    at: *mut f32,
    /// Elements from row to row.
    stride: usize,
}
// SAFETY: tasks write disjoint elements, and the caller's exclusive borrow outlives them all.
unsafe impl Sync for Output {}

impl<'a> Values<'a> {
    fn of(weights: WeightSlice<'a>) -> Values<'a> {
        match weights {
            WeightSlice::F32(values) => Values::F32(values.cpu()),
            WeightSlice::F16(values) => Values::F16(values.cpu()),
            WeightSlice::Bf16(values) => Values::Bf16(values.cpu()),
        }
    }
}

impl Product<'_> {
    fn run(&self, cpu: &Cpu) {
        run_tasks(cpu, [self.rows, self.cols, self.depth], |rows, cols, scratch| {
            cpu.isa().dispatch(Block { product: self, rows, cols, scratch })
        });
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
        cpu.parallel(tasks, |_, number| run_task(number));
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
