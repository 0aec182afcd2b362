//! Shapes. Timed: an adapter matrix of rank 16, and half as many numbers as SmolLM2-135M's adapters have parameters. For the tests:
//! lengths around the vector lengths.

use super::{Numbers, Tensor, Update, reference};
use crate::case::operands::{Kernel, Label, Operands, Views};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub len: usize,
    pub step: u64,
    pub beta1: f64,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, timed) in shapes([16 * 1536, 2_442_240], [0, 1, 15, 16, 33, 1001]) {
        for (step, beta1) in if timed { vec![(10, 0.9)] } else { vec![(1, 0.9), (1000, 0.9), (3, 0.3)] } {
            let shape = format!("[{len}] step {step} beta1 {beta1}");
            let (flops, bytes) = (15.0 * len as f64, 28.0 * len as f64);
            cases.push(Label { kernel: "adamw", shape, flops, bytes, timed }.case(Shape { len, step, beta1 }));
        }
    }
    cases
}

impl Shape {
    fn numbers(&self) -> Numbers {
        Numbers {
            learning_rate: 1e-3,
            beta1: self.beta1,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step: self.step,
            grad_scale: 0.7,
        }
    }
}

impl Kernel<0, 1, 3> for Shape {
    const OUTPUTS: [&'static str; 3] = ["param", "exp_avg", "exp_avg_sq"];

    fn operands(&self) -> Operands<0, 1, 3> {
        let mut inputs = Inputs::of(&[self.len]);
        let mut draw = |scale| inputs.normal(self.len, scale);
        let (grad, param, exp_avg, mut exp_avg_sq) = (draw(0.1), draw(1.0), draw(0.1), draw(0.1));
        for v in &mut exp_avg_sq {
            *v *= *v;
        }
        Operands { ids: [], x: [grad], y: [param, exp_avg, exp_avg_sq] }
    }

    fn call(
        &self,
        device: &Device,
        Views { x: [grad], y: [param, exp_avg, exp_avg_sq], .. }: Views<'_, 0, 1, 3>,
    ) -> Result<()> {
        Update { numbers: self.numbers(), tensors: vec![Tensor { param, grad, exp_avg, exp_avg_sq }] }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [grad]: [&[R]; 1], y: [Vec<R>; 3]) -> [Vec<R>; 3] {
        let [mut param, mut exp_avg, mut exp_avg_sq] = y;
        reference::step(self.numbers().factors(), &mut param, grad, &mut exp_avg, &mut exp_avg_sq);
        [param, exp_avg, exp_avg_sq]
    }
}
