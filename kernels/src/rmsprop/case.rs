//! Shapes. Timed: adapter matrices of rank 16, and half of SmolLM2-135M's adapters at once. For the tests only: odd lengths.

use super::{Numbers, Tensor, Update, reference};
use crate::case::operands::{Kernel, Label, Operands, Views};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub len: usize,
    pub alpha: f64,
    pub weight_decay: f64,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, timed) in shapes([16 * 1536, 2_442_240], [0, 1, 15, 16, 33, 1001]) {
        for (alpha, weight_decay) in if timed { vec![(0.99, 0.1)] } else { vec![(0.99, 0.0), (0.99, 0.1), (0.3, 0.1)] }
        {
            let shape = format!("[{len}] alpha {alpha} decay {weight_decay}");
            let (flops, bytes) = (10.0 * len as f64, 20.0 * len as f64);
            let label = Label { kernel: "rmsprop", shape, flops, bytes, timed };
            cases.push(label.case(Shape { len, alpha, weight_decay }));
        }
    }
    cases
}

impl Shape {
    fn numbers(&self) -> Numbers {
        Numbers { learning_rate: 1e-3, alpha: self.alpha, eps: 1e-8, weight_decay: self.weight_decay, grad_scale: 0.7 }
    }
}

impl Kernel<0, 1, 2> for Shape {
    const OUTPUTS: [&'static str; 2] = ["param", "square_avg"];

    fn operands(&self) -> Operands<0, 1, 2> {
        let mut inputs = Inputs::of(&[self.len]);
        let mut draw = |scale| inputs.normal(self.len, scale);
        let (grad, param, mut square_avg) = (draw(0.1), draw(1.0), draw(0.1));
        for v in &mut square_avg {
            *v *= *v;
        }
        Operands { ids: [], x: [grad], y: [param, square_avg] }
    }

    fn call(&self, device: &Device, Views { x: [grad], y: [param, square_avg], .. }: Views<'_, 0, 1, 2>) -> Result<()> {
        Update { numbers: self.numbers(), tensors: vec![Tensor { param, grad, square_avg }] }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [grad]: [&[R]; 1], y: [Vec<R>; 2]) -> [Vec<R>; 2] {
        let [mut param, mut square_avg] = y;
        reference::step(self.numbers().factors(), &mut param, grad, &mut square_avg);
        [param, square_avg]
    }
}
