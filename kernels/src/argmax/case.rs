//! Shapes. Timed: a decoding batch over real vocabularies. For the tests: column counts around the vector lengths, ties and NaN.

use super::{Argmax, reference};
use crate::case::{Case, Comparison, Inputs, Prepared, shapes};
use crate::{Buffer, Device, Indices, Result};

pub(crate) fn cases() -> Vec<Case> {
    let odd = [[0, 3], [1, 1], [3, 15], [2, 16], [5, 17], [2, 1001]];
    shapes([[8, 49_152], [1, 256_000]], odd).map(|([rows, cols], timed)| case(rows, cols, timed)).collect()
}

fn case(rows: usize, cols: usize, timed: bool) -> Case {
    Case {
        kernel: "argmax",
        shape: format!("[{rows}, {cols}]"),
        flops: (rows * cols) as f64,
        bytes: 4.0 * (rows * cols) as f64,
        precision: None,
        timed,
        prepare: Box::new(move |device| {
            let mut inputs = Inputs::of(&[rows, cols]);
            // few different values: many columns share the largest value
            let mut x: Vec<f32> = inputs.normal(rows * cols, 2.0).into_iter().map(f32::round).collect();
            if !timed && cols > 2 {
                x.iter_mut().step_by(3).for_each(|value| *value = f32::NAN);
            }
            // in no order: the first two columns and the last, one column twice, and one beyond the row
            let left_out: Vec<u32> = match cols > 16 {
                true => vec![cols as u32 - 1, 9, 0, 1, 9, cols as u32 + 5],
                false => Vec::new(),
            };
            let want = x.chunks_exact(cols).map(|row| f64::from(reference::argmax(row, &left_out))).collect();
            let left_out = device.upload_indices("case", &left_out)?;
            let y = device.zeros("case", rows)?;
            let buffer = device.upload("case", &x)?;
            Ok(Box::new(Ready { device: device.clone(), rows, cols, x: buffer, left_out, y, want }))
        }),
    }
}

struct Ready {
    device: Device,
    rows: usize,
    cols: usize,
    x: Buffer<f32>,
    left_out: Indices,
    y: Buffer<u32>,
    want: Vec<f64>,
}

impl Prepared for Ready {
    fn run(&mut self) -> Result<()> {
        let Ready { rows, cols, .. } = *self;
        Argmax { rows, cols, x: self.x.view(), left_out: self.left_out.view(), y: self.y.view_mut() }.run(&self.device)
    }

    fn check(&self) -> Vec<Comparison> {
        // columns below 2^24 are exact in f32; there is no arithmetic, so the bound is 0
        let got: Vec<f32> =
            self.y.download().expect("the device works").into_iter().map(|column| column as f32).collect();
        vec![Comparison::with_bound("y", &got, &self.want, 0.0)]
    }
}
