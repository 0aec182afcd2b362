//! Shapes: a table in each format, of 38 MB (f32) or 19 MB (f16, bf16), timed. For the tests, odd sizes near whole vectors.

use super::{Forward, reference};
use crate::case::operands::unset;
use crate::case::{Case, Comparison, Fixed, Inputs, Prepared, weights};
use crate::device::{WeightBuffer, WeightDtype};
use crate::real::{Real, widen};
use crate::{Buffer, Device, Indices, Result};

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
    dtype: WeightDtype,
    scale: f32,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        cases.push(Shape { rows: 2048, hidden_size: 576, vocab_size: 16_384, dtype, scale: 1.0 }.case(true));
        for [rows, hidden_size, vocab_size] in [[0, 1, 1], [1, 1, 1], [5, 31, 7], [4, 33, 100], [300, 129, 17]] {
            cases.push(Shape { rows, hidden_size, vocab_size, dtype, scale: 22.627_417 }.case(false));
        }
    }
    cases
}

impl Shape {
    fn case(self, timed: bool) -> Case {
        let Shape { rows, hidden_size, vocab_size, dtype, .. } = self;
        let n = rows * hidden_size;
        let (inputs, by_definition) = (Fixed::default(), Fixed::default());
        Case {
            kernel: "embed",
            shape: format!("{rows} of [{vocab_size}, {hidden_size}] {dtype:?}"),
            flops: n as f64,
            bytes: (n * (4 + dtype.bytes())) as f64,
            precision: None,
            timed,
            prepare: Box::new(move |device| Ok(Box::new(Run::new(self, &inputs, by_definition.clone(), device)?))),
        }
    }
}

struct Run {
    shape: Shape,
    device: Device,
    ids: Vec<u32>,
    ids_buffer: Indices,
    table: WeightBuffer,
    y: Buffer<f32>,
    by_definition: Fixed<(Vec<f64>, Vec<f32>)>,
}

impl Run {
    fn new(
        shape: Shape,
        inputs: &Fixed<(Vec<u32>, Vec<f32>)>,
        by_definition: Fixed<(Vec<f64>, Vec<f32>)>,
        device: &Device,
    ) -> Result<Run> {
        let Shape { rows, hidden_size, vocab_size, dtype, .. } = shape;
        let (ids, table) = inputs.get_or_init(|| {
            let mut inputs = Inputs::of(&[rows, hidden_size, vocab_size]);
            let ids = (0..rows).map(|_| inputs.below(vocab_size) as u32).collect();
            (ids, inputs.normal(vocab_size * hidden_size, 1.0))
        });
        Ok(Run {
            shape,
            device: device.clone(),
            ids_buffer: device.upload_indices("ids", ids)?,
            y: device.upload("y", &unset(rows * hidden_size))?,
            ids: ids.clone(),
            table: weights(device, dtype, table)?,
            by_definition,
        })
    }

    /// Computes the output from only those rows of the table that are looked up: the whole table would be large in f64.
    fn exact<R: Real>(&self) -> Vec<R> {
        let cols = self.shape.hidden_size;
        let table = self.table.download().expect("the device works");
        let used: Vec<f32> = self.ids.iter().flat_map(|&id| table[id as usize * cols..][..cols].to_vec()).collect();
        let ids: Vec<u32> = (0..self.ids.len() as u32).collect();
        reference::forward(cols, &ids, &widen(&used), R::from_f32(self.shape.scale))
    }
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        let Shape { rows, hidden_size, vocab_size, scale, .. } = self.shape;
        let (ids, table, y) = (self.ids_buffer.view(), self.table.view(), self.y.view_mut());
        Forward { rows, hidden_size, vocab_size, ids, table, scale, y }.run(&self.device)
    }

    fn check(&self) -> Vec<Comparison> {
        let (exact, naive) = self.by_definition.get_or_init(|| (self.exact::<f64>(), self.exact::<f32>()));
        vec![Comparison::with_naive("y", &self.y.download().expect("the device works"), exact, naive)]
    }
}
