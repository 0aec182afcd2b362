//! The timed shape is the gradients of all adapters of SmolLM2-135M. The tests also use lengths near 32, which is the number of
//! running sums, and lengths near whole blocks.

use super::{SumSquares, reference};
use crate::case::{Case, Comparison, Inputs, Prepared, shapes};
use crate::real::widen;
use crate::{Buffer, Device, Result};

pub(crate) fn cases() -> Vec<Case> {
    let timed = [4_884_480];
    let odd = [0, 1, 31, 32, 33, 1000, 65_536, 65_537, 200_000];
    shapes(timed, odd).map(|(len, timed)| case(len, timed)).collect()
}

fn case(len: usize, timed: bool) -> Case {
    Case {
        kernel: "sum_squares",
        shape: format!("[{len}]"),
        flops: 2.0 * len as f64,
        bytes: 4.0 * len as f64,
        precision: None,
        timed,
        prepare: Box::new(move |device| {
            let x = Inputs::of(&[len]).normal(len, 1.0);
            let x_buffer = device.upload("x", &x)?;
            Ok(Box::new(Run { device: device.clone(), x, x_buffer, sum: f64::NAN }))
        }),
    }
}

struct Run {
    device: Device,
    x: Vec<f32>,
    x_buffer: Buffer<f32>,
    sum: f64,
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        self.sum = SumSquares { xs: &[self.x_buffer.view()] }.run(&self.device)?[0];
        Ok(())
    }

    /// Squares of f32 are exact in f64. A sum of n positive terms errs by at most n half-units in its last place. The kernel's
    /// sum and the reference's may each err by that much.
    fn check(&self) -> Vec<Comparison> {
        let exact = reference::sum_squares(&widen::<f64>(&self.x));
        let bound = self.x.len() as f64 * f64::EPSILON * exact;
        vec![Comparison { output: "sum", error: (self.sum - exact).abs(), bound }]
    }
}
