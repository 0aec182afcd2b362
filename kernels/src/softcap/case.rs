//! The timed shape is one row of Gemma 2's logits. The tests also use lengths near whole vectors.

use super::{Softcap, reference};
use crate::case::operands::{Kernel, Label, Operands, Views};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub len: usize,
    pub cap: f32,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, timed) in shapes([256_000], [0, 1, 15, 16, 17, 1001]) {
        let shape = format!("[{len}] cap 30");
        let (flops, bytes) = (24.0 * len as f64, 8.0 * len as f64);
        cases.push(Label { kernel: "softcap", shape, flops, bytes, timed }.case(Shape { len, cap: 30.0 }));
    }
    cases
}

impl Kernel<0, 0, 1> for Shape {
    const OUTPUTS: [&'static str; 1] = ["x"];
    const FUNCTION_ULPS: f64 = 5.0; // tanh

    fn operands(&self) -> Operands<0, 0, 1> {
        // well beyond the cap on both sides
        Operands { ids: [], x: [], y: [Inputs::of(&[self.len]).normal(self.len, 40.0)] }
    }

    fn call(&self, device: &Device, Views { y: [x], .. }: Views<'_, 0, 0, 1>) -> Result<()> {
        Softcap { len: self.len, cap: self.cap, x }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], _: [&[R]; 0], [x]: [Vec<R>; 1]) -> [Vec<R>; 1] {
        [reference::softcap(R::from_f32(self.cap), &x)]
    }
}
