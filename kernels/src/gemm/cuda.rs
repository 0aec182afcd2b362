//! CUDA version. For each combination of number formats, one kernel computes all layouts, which differ only in the strides of the
//! operands.

use super::{Accumulate, Dw, Dx, Forward, LowRank, Piece, StackDx, StackForward};
use crate::cuda::{Cuda, Entry, Grid, Module};
use crate::device::WeightDtype;
use crate::{Columns, FloatDtype, FloatSlice, FloatSliceMut, Precision, Result, Slice, WeightSlice};

/// Rows and columns of a tile.
const TILE: usize = 64;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    out: u64,
    left: u64,
    right: u64,
    bias: u64,
    residual: u64,
    left_row: u64,
    left_step: u64,
    right_step: u64,
    right_col: u64,
    out_row: u64,
    rows: u32,
    cols: u32,
    depth: u32,
    alpha: f32,
    add: u32,
    round: u32,
}

/// A matrix on a card: its address, its format, and how many elements apart its rows and its columns are.
#[derive(Clone, Copy)]
struct Matrix<F> {
    at: u64,
    format: F,
    row: usize,
    col: usize,
}

impl Matrix<FloatDtype> {
    /// Returns a row-major matrix from column `first` on. Its rows are `stride` elements apart.
    fn of(values: FloatSlice<'_>, first: usize, stride: usize) -> Self {
        let format = values.dtype();
        let at = match values {
            FloatSlice::F32(values) => values.cuda().bits(),
            FloatSlice::Bf16(values) => values.cuda().bits(),
        };
        Matrix { at: at + (first * format.bytes()) as u64, format, row: stride, col: 1 }
    }

    fn of_mut(values: FloatSliceMut<'_>, first: usize, stride: usize) -> Self {
        let format = values.dtype();
        let at = match values {
            FloatSliceMut::F32(values) => values.cuda().bits(),
            FloatSliceMut::Bf16(values) => values.cuda().bits(),
        };
        Matrix { at: at + (first * format.bytes()) as u64, format, row: stride, col: 1 }
    }

    /// Returns the matrix from row `first` on.
    fn rows_from(self, first: usize) -> Self {
        Matrix { at: self.at + (first * self.row * self.format.bytes()) as u64, ..self }
    }

    /// Returns the matrix as the right operand of a product.
    fn as_weights(self) -> Matrix<WeightDtype> {
        let format = match self.format {
            FloatDtype::F32 => WeightDtype::F32,
            FloatDtype::Bf16 => WeightDtype::Bf16,
        };
        Matrix { at: self.at, format, row: self.row, col: self.col }
    }
}

impl Matrix<WeightDtype> {
    fn weights(values: WeightSlice<'_>, stride: usize) -> Self {
        let (at, format) = match values {
            WeightSlice::F32(values) => (values.cuda().bits(), WeightDtype::F32),
            WeightSlice::F16(values) => (values.cuda().bits(), WeightDtype::F16),
            WeightSlice::Bf16(values) => (values.cuda().bits(), WeightDtype::Bf16),
        };
        Matrix { at, format, row: stride, col: 1 }
    }
}

impl<F: Copy> Matrix<F> {
    fn transposed(self) -> Self {
        Matrix { row: self.col, col: self.row, ..self }
    }
}

/// `out[rows, cols] (+)= alpha * left[rows, depth] · right[depth, cols]`
#[derive(Clone, Copy)]
struct Product {
    sizes: [usize; 3],
    out: Matrix<FloatDtype>,
    left: Matrix<FloatDtype>,
    right: Matrix<WeightDtype>,
    alpha: f32,
    accumulate: Accumulate,
    precision: Precision,
    bias: u64,
    residual: u64,
}

impl Product {
    /// Makes a product that is written over `out`. Nothing is scaled or added.
    fn plain(
        sizes: [usize; 3],
        out: Matrix<FloatDtype>,
        left: Matrix<FloatDtype>,
        right: Matrix<WeightDtype>,
        precision: Precision,
    ) -> Product {
        let accumulate = Accumulate::Set;
        Product { sizes, out, left, right, alpha: 1.0, accumulate, precision, bias: 0, residual: 0 }
    }

    fn run(self, cuda: &Cuda) -> Result<()> {
        let Product { sizes: [rows, cols, depth], out, left, right, alpha, accumulate, precision, bias, residual } =
            self;
        let args = Args {
            out: out.at,
            left: left.at,
            right: right.at,
            bias,
            residual,
            left_row: left.row as u64,
            left_step: left.col as u64,
            right_step: right.row as u64,
            right_col: right.col as u64,
            out_row: out.row as u64,
            rows: rows as u32,
            cols: cols as u32,
            depth: depth as u32,
            alpha,
            add: u32::from(accumulate == Accumulate::Add),
            round: u32::from(precision == Precision::Bf16),
        };
        let grid = Grid::plane(cols.div_ceil(TILE), rows.div_ceil(TILE));
        cuda.launch(entry(out.format, left.format, right.format), grid, args)
    }
}

const fn named(name: &'static std::ffi::CStr) -> Entry<Args> {
    Entry::new(Module::Gemm, name, 256)
}

/// The kernels, in the order of the formats of the output, the left operand and the right operand.
static ENTRIES: [Entry<Args>; 12] = [
    named(c"gemm_f32_f32_f32"),
    named(c"gemm_f32_f32_f16"),
    named(c"gemm_f32_f32_bf16"),
    named(c"gemm_f32_bf16_f32"),
    named(c"gemm_f32_bf16_f16"),
    named(c"gemm_f32_bf16_bf16"),
    named(c"gemm_bf16_f32_f32"),
    named(c"gemm_bf16_f32_f16"),
    named(c"gemm_bf16_f32_bf16"),
    named(c"gemm_bf16_bf16_f32"),
    named(c"gemm_bf16_bf16_f16"),
    named(c"gemm_bf16_bf16_bf16"),
];

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    ENTRIES.iter().map(Entry::any).collect()
}

fn entry(out: FloatDtype, left: FloatDtype, right: WeightDtype) -> &'static Entry<Args> {
    use FloatDtype::{Bf16, F32};
    let out = match out {
        F32 => 0,
        Bf16 => 6,
    };
    let left = match left {
        F32 => 0,
        Bf16 => 3,
    };
    let right = match right {
        WeightDtype::F32 => 0,
        WeightDtype::F16 => 1,
        WeightDtype::Bf16 => 2,
    };
    &ENTRIES[out + left + right]
}

fn columns(dy: Columns<'_>) -> Matrix<FloatDtype> {
    Matrix::of(dy.values, dy.first, dy.stride)
}

pub(super) fn forward(call: Forward<'_>, cuda: &Cuda) -> Result<()> {
    let Forward { m, n, k, alpha, x, w, y, accumulate, precision } = call;
    let product = Product::plain(
        [m, n, k],
        Matrix::of_mut(y, 0, n),
        Matrix::of(x, 0, k),
        Matrix::weights(w, k).transposed(),
        precision,
    );
    Product { alpha, accumulate, ..product }.run(cuda)
}

pub(super) fn dx(call: Dx<'_>, cuda: &Cuda) -> Result<()> {
    let Dx { m, n, k, alpha, dy, w, dx, accumulate, precision } = call;
    let product = Product::plain([m, k, n], Matrix::of_mut(dx, 0, k), columns(dy), Matrix::weights(w, k), precision);
    Product { alpha, accumulate, ..product }.run(cuda)
}

pub(super) fn dw(call: Dw<'_>, cuda: &Cuda) -> Result<()> {
    let Dw { m, n, k, alpha, dy, x, dw, accumulate, precision } = call;
    let product = Product::plain(
        [n, k, m],
        Matrix::of_mut(dw.into(), 0, k),
        columns(dy).transposed(),
        Matrix::of(x, 0, k).as_weights(),
        precision,
    );
    Product { alpha, accumulate, ..product }.run(cuda)
}

/// Computes each layer and then adds its updates. If an update's `b` is zero, its rows keep the bits of the layer.
pub(super) fn stack_forward(call: StackForward<'_, '_>, cuda: &Cuda) -> Result<()> {
    let StackForward { m, k, x, pieces, y, residual, precision } = call;
    let width: usize = pieces.iter().map(|piece| piece.n).sum();
    let (y, x, residual) =
        (Matrix::of_mut(y, 0, width), Matrix::of(x, 0, k), residual.map_or(0, |of| of.cuda().bits()));
    let mut first = 0;
    for Piece { n, w, bias, updates } in pieces {
        let out = Matrix { at: y.at + (first * y.format.bytes()) as u64, ..y };
        let layer = Product {
            sizes: [m, *n, k],
            out,
            left: x,
            right: Matrix::weights(*w, k).transposed(),
            alpha: 1.0,
            accumulate: Accumulate::Set,
            precision,
            bias: bias.map_or(0, |bias| bias.cuda().bits()),
            residual: if residual == 0 { 0 } else { residual + (first * size_of::<f32>()) as u64 },
        };
        layer.run(cuda)?;
        for LowRank { rows, rank, scaling, a, b, x: own, u } in updates {
            let (len, rank) = (rows.len(), *rank);
            let left = own.map_or(x.rows_from(rows.start), |own| Matrix::of(own, 0, k));
            let down = adapter(*a, k).transposed();
            let u = Matrix::of_mut(u.reborrow().into(), 0, rank);
            let plain = Product { accumulate: Accumulate::Set, bias: 0, residual: 0, ..layer };
            Product { sizes: [len, rank, k], out: u, left, right: down, ..plain }.run(cuda)?;
            let up = adapter(*b, rank).transposed();
            let sizes = [len, *n, rank];
            let accumulate = Accumulate::Add;
            Product { sizes, out: out.rows_from(rows.start), left: u, right: up, alpha: *scaling, accumulate, ..plain }
                .run(cuda)?;
        }
        first += *n;
    }
    Ok(())
}

/// Computes each layer and then adds its updates, as [`stack_forward`] does.
pub(super) fn stack_dx(call: StackDx<'_, '_>, cuda: &Cuda) -> Result<()> {
    let StackDx { m, k, dy, pieces, dx, precision } = call;
    let width: usize = pieces.iter().map(|piece| piece.n).sum();
    let dx = Matrix::of_mut(dx, 0, k);
    let mut first = 0;
    for (i, Piece { n, w, updates, .. }) in pieces.iter_mut().enumerate() {
        let dy = Matrix::of(dy, first, width);
        let plain = Product::plain([m, k, *n], dx, dy, Matrix::weights(*w, k), precision);
        let layer = Product { accumulate: if i == 0 { Accumulate::Set } else { Accumulate::Add }, ..plain };
        layer.run(cuda)?;
        for LowRank { rows, rank, scaling, a, b, u, .. } in updates {
            let (len, rank) = (rows.len(), *rank);
            let du = Matrix::of_mut(u.reborrow().into(), 0, rank);
            let (left, right) = (dy.rows_from(rows.start), adapter(*b, rank));
            Product { sizes: [len, rank, *n], out: du, left, right, alpha: *scaling, ..plain }.run(cuda)?;
            let (out, right) = (dx.rows_from(rows.start), adapter(*a, k));
            Product { sizes: [len, k, rank], out, left: du, right, accumulate: Accumulate::Add, ..plain }.run(cuda)?;
        }
        first += *n;
    }
    Ok(())
}

fn adapter(values: Slice<'_, f32>, stride: usize) -> Matrix<WeightDtype> {
    Matrix { at: values.cuda().bits(), format: WeightDtype::F32, row: stride, col: 1 }
}
