//! Shapes: the input of an adapter of SmolLM2-135M, timed. For the tests, odd sizes near multiples of 4 (a counter covers 4
//! columns) and near whole vectors.

use super::{Dropout, reference};
use crate::case::{Case, Comparison, Inputs, Prepared};
use crate::rng::Key;
use crate::{Buffer, Device, Result};

/// Returns the row numbers 2^32 + 1, 2^32, 2^32 - 1 and so on: some use the upper 32 bits, and they do not ascend.
fn numbers(rows: usize) -> Vec<u64> {
    (0..rows as u64).map(|row| (1 << 32) + 1 - row).collect()
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    cols: usize,
    p: f32,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![Shape { rows: 2048, cols: 576, p: 0.1 }.case(true)];
    for [rows, cols] in [[0, 1], [1, 1], [3, 4], [2, 63], [3, 64], [2, 65], [4, 127], [3, 130], [5, 577], [301, 129]] {
        for p in [0.0, 0.05, 0.5] {
            cases.push(Shape { rows, cols, p }.case(false));
        }
    }
    cases
}

impl Shape {
    fn case(self, timed: bool) -> Case {
        let Shape { rows, cols, p } = self;
        let n = (rows * cols) as f64;
        Case {
            kernel: "dropout",
            shape: format!("[{rows}, {cols}] p {p}"),
            flops: n,
            bytes: 8.0 * n,
            precision: None,
            timed,
            prepare: Box::new(move |device| Ok(Box::new(Run::new(self, device)?))),
        }
    }
}

struct Run {
    shape: Shape,
    device: Device,
    numbers: Vec<u64>,
    x: Vec<f32>,
    number_buffer: Buffer<u64>,
    x_buffer: Buffer<f32>,
    y: Buffer<f32>,
}

impl Run {
    fn new(shape: Shape, device: &Device) -> Result<Run> {
        let n = shape.rows * shape.cols;
        let x = Inputs::of(&[shape.rows, shape.cols]).normal(n, 1.0);
        let numbers = numbers(shape.rows);
        let number_buffer = device.upload("numbers", &numbers)?;
        let x_buffer = device.upload("x", &x)?;
        let y = device.upload("y", &crate::case::operands::unset(n))?;
        Ok(Run { shape, device: device.clone(), numbers, x, number_buffer, x_buffer, y })
    }
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        let Shape { rows, cols, p } = self.shape;
        let (numbers, x, y) = (self.number_buffer.view(), self.x_buffer.view(), self.y.view_mut());
        Dropout { rows, cols, p, key: Key::new(1, 2, 3), numbers, x: x.into(), y: y.into() }.run(&self.device)
    }

    /// An element is one product, rounded once, so the result must be exact.
    fn check(&self) -> Vec<Comparison> {
        let Shape { cols, p, .. } = self.shape;
        let exact = reference::dropout(cols, p, Key::new(1, 2, 3), &self.numbers, &self.x);
        let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
        vec![Comparison::with_bound("y", &self.y.download().expect("the device works"), &exact, 0.0)]
    }
}
