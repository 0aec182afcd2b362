//! Shapes: a norm of SmolLM2-135M, a norm of 4096 columns and a norm per head, timed. For the tests, odd sizes near whole vectors.

use super::{Accumulate, Backward, Forward, Groups, reference};
use crate::case::operands::{Kernel, Label, Operands, Views, unset};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

/// The `eps` of Llama models.
const EPS: f32 = 1e-5;

#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardShape {
    pub rows: usize,
    pub cols: usize,
    pub offset: f32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BackwardShape {
    pub rows: usize,
    pub cols: usize,
    pub offset: f32,
}

pub(crate) fn cases() -> Vec<Case> {
    let timed = [[2048, 576], [512, 4096], [18432, 64]];
    let odd = [
        [0, 3],
        [1, 1],
        [3, 31],
        [5, 33],
        [2, 63],
        [3, 64],
        [4, 65],
        [7, 1023],
        [301, 129],
        [2, 1025],
        [3, 1100],
        [2, 4096],
        [2, 4097],
        [2, 8200],
    ];
    let mut cases = Vec::new();
    for ([rows, cols], timed) in shapes(timed, odd) {
        for offset in if timed { vec![0.0] } else { vec![0.0, 1.0] } {
            let n = (rows * cols) as f64;
            let label = |kernel, flops, passes| Label {
                kernel,
                shape: format!("[{rows}, {cols}] offset {offset}"),
                flops: flops * n,
                bytes: passes * 4.0 * n,
                timed,
            };
            cases.push(label("rms_norm.forward", 4.0, 2.0).case(ForwardShape { rows, cols, offset }));
            cases.push(label("rms_norm.backward", 8.0, 4.0).case(BackwardShape { rows, cols, offset }));
        }
    }
    cases
}

impl Kernel<0, 2, 2> for ForwardShape {
    const OUTPUTS: [&'static str; 2] = ["y", "rstd"];

    fn operands(&self) -> Operands<0, 2, 2> {
        let n = self.rows * self.cols;
        let mut inputs = Inputs::of(&[self.rows, self.cols]);
        Operands { ids: [], x: [inputs.normal(n, 1.0), inputs.normal(self.cols, 0.5)], y: [unset(n), unset(self.rows)] }
    }

    fn call(&self, device: &Device, Views { x: [x, weight], y: [y, rstd], .. }: Views<'_, 0, 2, 2>) -> Result<()> {
        let ForwardShape { rows, cols, offset } = *self;
        Forward { rows, cols, groups: Groups::rows(cols), eps: EPS, offset, x: x.into(), weight, y: y.into(), rstd }
            .run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [x, weight]: [&[R]; 2], _: [Vec<R>; 2]) -> [Vec<R>; 2] {
        let (y, rstd) = reference::forward(self.cols, R::from_f32(EPS), R::from_f32(self.offset), x, weight);
        [y, rstd]
    }
}

impl Kernel<0, 4, 1> for BackwardShape {
    const OUTPUTS: [&'static str; 1] = ["dx"];

    fn operands(&self) -> Operands<0, 4, 1> {
        let BackwardShape { rows, cols, offset } = *self;
        let mut inputs = Inputs::of(&[rows, cols]);
        let (x, weight) = (inputs.normal(rows * cols, 1.0), inputs.normal(cols, 0.5));
        // the kernel accepts any `rstd`; the one that belongs to `x` keeps the terms of the formula in proportion
        let (_, rstd) = reference::forward(cols, EPS, offset, &x, &weight);
        let dy = inputs.normal(rows * cols, 1.0);
        Operands { ids: [], x: [x, weight, rstd, dy], y: [inputs.normal(rows * cols, 1.0)] }
    }

    fn call(&self, device: &Device, Views { x: [x, weight, rstd, dy], y: [dx], .. }: Views<'_, 0, 4, 1>) -> Result<()> {
        let BackwardShape { rows, cols, offset } = *self;
        let (groups, accumulate) = (Groups::rows(cols), Accumulate::Add);
        let (x, dy, dx) = (x.into(), dy.into(), dx.into());
        Backward { rows, cols, groups, offset, x, weight, rstd, dy, dx, accumulate }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], x: [&[R]; 4], [mut dx]: [Vec<R>; 1]) -> [Vec<R>; 1] {
        let [x, weight, rstd, dy] = x;
        reference::backward(self.cols, R::from_f32(self.offset), x, weight, rstd, dy, &mut dx);
        [dx]
    }
}
