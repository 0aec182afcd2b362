//! Shapes. Timed: the residual stream of SmolLM2-135M. For the tests: lengths around the vector lengths.

use super::{Add, reference};
use crate::case::operands::{Kernel, Label, Operands, Views};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct AddShape {
    pub len: usize,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([rows, cols], timed) in shapes([[2048, 576]], [[0, 3], [1, 1], [3, 31], [5, 33], [7, 1023], [301, 129]]) {
        let len = rows * cols;
        let (kernel, shape) = ("add", format!("[{len}]"));
        cases.push(Label { kernel, shape, flops: len as f64, bytes: 12.0 * len as f64, timed }.case(AddShape { len }));
    }
    cases
}

impl Kernel<0, 1, 1> for AddShape {
    const OUTPUTS: [&'static str; 1] = ["y"];

    fn operands(&self) -> Operands<0, 1, 1> {
        let mut inputs = Inputs::of(&[self.len]);
        Operands { ids: [], x: [inputs.normal(self.len, 1.0)], y: [inputs.normal(self.len, 1.0)] }
    }

    fn call(&self, device: &Device, Views { x: [x], y: [y], .. }: Views<'_, 0, 1, 1>) -> Result<()> {
        Add { len: self.len, x: x.into(), y: y.into() }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [x]: [&[R]; 1], [mut y]: [Vec<R>; 1]) -> [Vec<R>; 1] {
        reference::add(x, &mut y);
        [y]
    }
}
