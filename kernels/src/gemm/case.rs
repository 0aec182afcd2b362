//! Shapes: the layers of a small Llama and their adapters, timed. For the tests, odd sizes around the edges of the tiles.

use super::{Accumulate, Dw, Dx, Forward, reference};
use crate::case::{Case, Comparison, Fixed, Inputs, Prepared, float, weights};
use crate::device::{WeightBuffer, WeightDtype};
use crate::{Columns, Device, FloatBuffer, FloatDtype, FloatSliceMut, Precision, Result, WeightSlice};

/// Which of the three products is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Forward,
    Dx,
    Dw,
}

/// One product at one shape.
#[derive(Debug, Clone, Copy)]
struct Shape {
    layout: Layout,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    weights: WeightDtype,
    accumulate: Accumulate,
    precision: Precision,
    /// Format of the activations.
    floats: FloatDtype,
}

pub(crate) fn cases() -> Vec<Case> {
    let plain = Shape {
        layout: Layout::Forward,
        m: 0,
        n: 0,
        k: 0,
        alpha: 1.0,
        weights: WeightDtype::Bf16,
        accumulate: Accumulate::Set,
        precision: Precision::F32,
        floats: FloatDtype::F32,
    };
    let in_bf16 = Shape { precision: Precision::Bf16, floats: FloatDtype::Bf16, ..plain };
    let mut cases = Vec::new();

    // Linear layers of SmolLM2-135M (hidden 576, intermediate 1536, key-value heads 192, vocabulary 49152), forward and dx.
    for layout in [Layout::Forward, Layout::Dx] {
        for m in [1, 8, 128, 512, 1024, 2048] {
            for [n, k] in [[576, 576], [192, 576], [1536, 576], [576, 1536]] {
                cases.push(Shape { layout, m, n, k, ..plain }.case(true));
                cases.push(Shape { layout, m, n, k, ..in_bf16 }.case(true));
            }
        }
        for m in [1, 128, 1024] {
            cases.push(Shape { layout, m, n: 49152, k: 576, ..plain }.case(true));
        }
    }
    // Adapters of rank 16 of these layers: x·Aᵀ, u·Bᵀ, and their gradients.
    let adapter = Shape { m: 2048, weights: WeightDtype::F32, ..plain };
    for layout in [Layout::Forward, Layout::Dx, Layout::Dw] {
        for [n, k] in [[16, 576], [16, 1536], [576, 16], [1536, 16]] {
            cases.push(Shape { layout, n, k, ..adapter }.case(true));
            let (m, weights) = (adapter.m, adapter.weights);
            cases.push(Shape { layout, m, n, k, weights, ..in_bf16 }.case(true));
        }
    }

    // Odd sizes. The first has a case for every combination of weight format, precision and accumulation, and each further one has
    // three cases.
    for layout in [Layout::Forward, Layout::Dx, Layout::Dw] {
        let odd = Shape { layout, alpha: 0.75, ..plain };
        for weights in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
            for precision in [Precision::F32, Precision::Bf16] {
                for accumulate in [Accumulate::Set, Accumulate::Add] {
                    cases.push(Shape { m: 33, n: 65, k: 31, weights, precision, accumulate, ..odd }.case(false));
                }
            }
        }
        for [m, n, k] in [
            [0, 5, 7],
            [1, 1, 1],
            [1, 3, 577],
            [3, 31, 65],
            [31, 1, 33],
            [12, 32, 288],
            [13, 33, 289],
            [7, 577, 3],
            [100, 16, 577],
            [65, 577, 16],
            [577, 4, 31],
            [1300, 33, 17],
            [67, 40, 1200],
            [5, 1200, 600],
        ] {
            cases.push(Shape { m, n, k, accumulate: Accumulate::Add, ..odd }.case(false));
            let in_bf16 = Shape { layout, m, n, k, ..in_bf16 };
            cases.push(in_bf16.case(false));
            cases.push(Shape { accumulate: Accumulate::Add, alpha: 0.75, ..in_bf16 }.case(false));
        }
    }
    // Few rows in bf16, for which weights are not packed. The rows fill whole and partial groups of 16, and weights are in every
    // format.
    for weights in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        for m in [9, 20, 32] {
            cases.push(Shape { m, n: 65, k: 71, weights, ..in_bf16 }.case(false));
        }
    }
    cases
}

impl Shape {
    fn kernel(&self) -> &'static str {
        match self.layout {
            Layout::Forward => "gemm.forward",
            Layout::Dx => "gemm.dx",
            Layout::Dw => "gemm.dw",
        }
    }

    /// Rows and columns of the left operand, the right operand and the output.
    fn sides(&self) -> [[usize; 2]; 3] {
        let Shape { m, n, k, .. } = *self;
        match self.layout {
            Layout::Forward => [[m, k], [n, k], [m, n]],
            Layout::Dx => [[m, n], [n, k], [m, k]],
            Layout::Dw => [[m, n], [m, k], [n, k]],
        }
    }

    fn case(self, timed: bool) -> Case {
        let Shape { m, n, k, accumulate, .. } = self;
        let right = match (self.layout, self.weights) {
            (Layout::Dw, _) | (_, WeightDtype::F32) => "f32",
            (_, WeightDtype::F16) => "f16",
            (_, WeightDtype::Bf16) => "bf16",
        };
        let right = if self.layout == Layout::Dw && self.floats == FloatDtype::Bf16 { "bf16" } else { right };
        let operand_bytes = if right == "f32" { 4 } else { 2 };
        let float_bytes = self.floats.bytes();
        let output_bytes = if self.layout == Layout::Dw { 4 } else { float_bytes };
        let floats = if self.floats == FloatDtype::Bf16 { " of bf16" } else { "" };
        let [left_side, right_side, output_side] = self.sides().map(|[rows, cols]| rows * cols);
        let output_passes = if accumulate == Accumulate::Add { 2 } else { 1 };
        let product = if self.precision == Precision::Bf16 { ", products of bf16" } else { "" };
        let store = if accumulate == Accumulate::Add { ", added" } else { "" };
        let (inputs, by_definition) = (Fixed::default(), Fixed::default());
        Case {
            kernel: self.kernel(),
            shape: format!("m {m} n {n} k {k} {right}{floats}{product}{store}"),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            bytes: (float_bytes * left_side + operand_bytes * right_side + output_bytes * output_passes * output_side)
                as f64,
            precision: Some(self.precision),
            timed,
            prepare: Box::new(move |device| Ok(Box::new(Run::new(self, &inputs, by_definition.clone(), device)?))),
        }
    }
}

struct Run {
    shape: Shape,
    device: Device,
    left: FloatBuffer,
    right: WeightBuffer,
    /// What the output holds before the call, if the product is added to it.
    before: FloatBuffer,
    output: FloatBuffer,
    by_definition: Fixed<ByReference>,
}

/// The exact values of the sampled part of the output, and the largest `Σ |term|` of its elements.
type ByReference = (Vec<f64>, f64);

impl Run {
    fn new(
        shape: Shape,
        inputs: &Fixed<[Vec<f32>; 3]>,
        by_definition: Fixed<ByReference>,
        device: &Device,
    ) -> Result<Run> {
        let [left, right, output] = shape.sides().map(|[rows, cols]| rows * cols);
        let [left, right, before] = inputs.get_or_init(|| {
            let mut inputs = Inputs::of(&[shape.m, shape.n, shape.k]);
            let before = if shape.accumulate == Accumulate::Add { output } else { 0 };
            [inputs.normal(left, 1.0), inputs.normal(right, 0.1), inputs.normal(before, 1.0)]
        });
        let output_dtype = if shape.layout == Layout::Dw { FloatDtype::F32 } else { shape.floats };
        let left = float(device, shape.floats, left)?;
        let dtype = match (shape.layout, shape.floats) {
            (Layout::Dw, FloatDtype::Bf16) => WeightDtype::Bf16,
            (Layout::Dw, FloatDtype::F32) => WeightDtype::F32,
            _ => shape.weights,
        };
        let right = weights(device, dtype, right)?;
        let before = float(device, output_dtype, before)?;
        // NaN, so that an element that is not written fails the comparison
        let output = float(device, output_dtype, &vec![f32::NAN; output])?;
        Ok(Run { shape, device: device.clone(), left, right, before, output, by_definition })
    }
}

impl Run {
    /// Returns a sample of the output's rows and columns: all of them up to 80, otherwise the first 16, the last 16 and some
    /// between.
    fn sampled(&self, output: &[f32]) -> Vec<f32> {
        let [.., side] = self.shape.sides();
        part(output, side, &sample(side[0]), &sample(side[1]))
    }

    fn reference(&self) -> ByReference {
        let Shape { layout, alpha, accumulate, precision, .. } = self.shape;
        let [left_side, right_side, [rows, cols]] = self.shape.sides();
        let (left, right) =
            (self.left.download().expect("the device works"), self.right.download().expect("the device works"));
        let (sampled_rows, sampled_cols) = (sample(rows), sample(cols));
        let [all_left, all_right] = [left_side, right_side].map(|[rows, cols]| [all(rows), all(cols)]);
        // the parts of the operands that the sampled outputs need, and the sizes of that smaller product
        let (left, right, [m, n, k]) = match layout {
            Layout::Forward => (
                part(&left, left_side, &sampled_rows, &all_left[1]),
                part(&right, right_side, &sampled_cols, &all_right[1]),
                [sampled_rows.len(), sampled_cols.len(), self.shape.k],
            ),
            Layout::Dx => (
                part(&left, left_side, &sampled_rows, &all_left[1]),
                part(&right, right_side, &all_right[0], &sampled_cols),
                [sampled_rows.len(), self.shape.n, sampled_cols.len()],
            ),
            Layout::Dw => (
                part(&left, left_side, &all_left[0], &sampled_rows),
                part(&right, right_side, &all_right[0], &sampled_cols),
                [self.shape.m, sampled_rows.len(), sampled_cols.len()],
            ),
        };
        let reference = match layout {
            Layout::Forward => reference::forward::<f64>,
            Layout::Dx => reference::dx::<f64>,
            Layout::Dw => reference::dw::<f64>,
        };
        let before: Vec<f64> = match accumulate {
            Accumulate::Set => vec![0.0; sampled_rows.len() * sampled_cols.len()],
            Accumulate::Add => {
                self.sampled(&self.before.download().expect("the device works")).into_iter().map(f64::from).collect()
            }
        };
        let mut exact = before.clone();
        reference([m, n, k], alpha, &left, &right, &mut exact, accumulate, precision);

        // Sum the magnitudes of all terms with the same loops.
        let magnitude = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| x.abs()).collect() };
        let mut terms: Vec<f64> = before.iter().map(|x| x.abs()).collect();
        reference([m, n, k], alpha.abs(), &magnitude(&left), &magnitude(&right), &mut terms, accumulate, precision);
        let largest = terms.iter().fold(0.0f64, |largest, x| largest.max(*x));
        (exact, largest)
    }
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        let Shape { layout, m, n, k, alpha, accumulate, precision, .. } = self.shape;
        if accumulate == Accumulate::Add {
            self.device.copy_float(self.before.view(), self.output.view_mut())?;
        }
        let left = self.left.view();
        let right = self.right.view();
        let output = self.output.view_mut();
        match layout {
            Layout::Forward => {
                Forward { m, n, k, alpha, x: left, w: right, y: output, accumulate, precision }.run(&self.device)
            }
            Layout::Dx => {
                let dy = Columns::all(left, n);
                Dx { m, n, k, alpha, dy, w: right, dx: output, accumulate, precision }.run(&self.device)
            }
            Layout::Dw => {
                let x = match right {
                    WeightSlice::F32(x) => x.into(),
                    WeightSlice::Bf16(x) => x.into(),
                    WeightSlice::F16(_) => unreachable!("`new` makes the x of a Dw like its dy"),
                };
                let FloatSliceMut::F32(dw) = output else { unreachable!("`new` makes the output of a Dw in f32") };
                let dy = Columns::all(left, n);
                Dw { m, n, k, alpha, dy, x, dw, accumulate, precision }.run(&self.device)
            }
        }
    }

    fn check(&self) -> Vec<Comparison> {
        let (exact, terms) = self.by_definition.get_or_init(|| self.reference());
        let Shape { layout, m, n, k, .. } = self.shape;
        let depth = match layout {
            Layout::Forward => k,
            Layout::Dx => n,
            Layout::Dw => m,
        };
        let mut bound = bound(depth, *terms);
        if self.output.dtype() == FloatDtype::Bf16 {
            // rounding to the eight bits of bf16 errs by at most 1/256 of a value, which may itself be off by the bound so far
            let value = exact.iter().fold(0.0f64, |value, x| value.max(x.abs()));
            bound += (value + bound) / 256.0;
        }
        vec![Comparison::with_bound(
            "output",
            &self.sampled(&self.output.download().expect("the device works")),
            exact,
            bound,
        )]
    }
}

/// Bounds the rounding error of a sum of `depth` products. Each of the `depth` additions, the scaling and the last addition errs by
/// at most half a unit in the last place of a partial sum, and a partial sum is at most `terms`, the sum of the magnitudes. The
/// errors are independent, so they add up like a random walk (Higham and Mary 2019, doi 10.1137/18M1226312, theorem 2.4). With the
/// factor of 5, an error exceeds the bound with a probability of about 1e-5.
fn bound(depth: usize, terms: f64) -> f64 {
    let half_ulp = 0.5 * f64::from(f32::EPSILON);
    5.0 * ((depth + 2) as f64).sqrt() * half_ulp * terms
}

fn all(n: usize) -> Vec<usize> {
    (0..n).collect()
}

fn sample(n: usize) -> Vec<usize> {
    if n <= 80 { all(n) } else { (0..16).chain((16..n - 16).step_by((n - 32).div_ceil(32))).chain(n - 16..n).collect() }
}

fn part(values: &[f32], [_, cols]: [usize; 2], take_rows: &[usize], take_cols: &[usize]) -> Vec<f32> {
    take_rows.iter().flat_map(|row| take_cols.iter().map(move |col| values[row * cols + col])).collect()
}
