//! Shapes: the queries of SmolLM2-135M, heads of 128 columns and a partial rotation, timed. For the tests, odd sizes near whole
//! vectors.

use super::{Direction, Rotate, Tables, reference};
use crate::case::operands::{Kernel, Label, Operands, Views, unset};
use crate::case::{Case, Inputs, shapes};
use crate::real::Real;
use crate::{Device, Result};

#[derive(Debug, Clone, Copy)]
pub(super) struct TablesShape {
    pub rows: usize,
    pub half: usize,
    pub n_variants: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RotateShape {
    pub rows: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub rotary_dim: usize,
    pub direction: Direction,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let timed = [[2048, 32, 1]];
    let odd = [[0, 1, 1], [1, 1, 1], [3, 4, 2], [7, 33, 3], [65, 48, 2]];
    for ([rows, half, n_variants], timed) in shapes(timed, odd) {
        let angles = (rows * half) as f64;
        let shape = format!("[{rows}, {half}] of {n_variants} variants");
        let label = Label { kernel: "rope.tables", shape, flops: 40.0 * angles, bytes: 8.0 * angles, timed };
        cases.push(label.case(TablesShape { rows, half, n_variants }));
    }

    let timed = [[2048, 9, 64, 64], [512, 32, 128, 128], [512, 32, 96, 48]];
    let odd =
        [[0, 1, 2, 2], [1, 1, 2, 2], [3, 2, 5, 0], [3, 2, 7, 6], [5, 3, 64, 62], [4, 1, 66, 66], [300, 3, 40, 34]];
    for ([rows, heads, head_dim, rotary_dim], timed) in shapes(timed, odd) {
        for direction in [Direction::Forward, Direction::Backward] {
            let turned = (rows * heads * rotary_dim) as f64;
            let label = Label {
                kernel: "rope.rotate",
                shape: format!("[{rows}, {heads} x {head_dim}] of which {rotary_dim}, {direction:?}"),
                flops: 3.0 * turned,
                bytes: 8.0 * turned + 4.0 * (rows * rotary_dim) as f64,
                timed,
            };
            cases.push(label.case(RotateShape { rows, heads, head_dim, rotary_dim, direction }));
        }
    }
    cases
}

impl Kernel<2, 2, 2> for TablesShape {
    const OUTPUTS: [&'static str; 2] = ["cos", "sin"];

    fn operands(&self) -> Operands<2, 2, 2> {
        let TablesShape { rows, half, n_variants } = *self;
        let mut inputs = Inputs::of(&[rows, half, n_variants]);
        let positions = (0..rows).map(|_| inputs.below(131_072) as u32).collect();
        let variants = (0..rows).map(|_| inputs.below(n_variants) as u32).collect();
        let frequency = |k: usize| 10_000f32.powf(-((k % half) as f32) / half as f32) / (1 + k / half) as f32;
        let inv_freq = (0..n_variants * half).map(frequency).collect();
        let scaling = (0..n_variants).map(|variant| 1.0 + 0.25 * variant as f32).collect();
        let y = [unset(rows * half), unset(rows * half)];
        Operands { ids: [positions, variants], x: [inv_freq, scaling], y }
    }

    fn call(
        &self,
        device: &Device,
        Views { ids: [positions, variants], x: [inv_freq, scaling], y: [cos, sin] }: Views<'_, 2, 2, 2>,
    ) -> Result<()> {
        let (rows, half, positions) = (self.rows, self.half, positions.values());
        Tables { rows, half, positions, variants, inv_freq, scaling, cos, sin }.run(device)
    }

    fn reference<R: Real>(&self, ids: [&[u32]; 2], [inv_freq, scaling]: [&[R]; 2], _: [Vec<R>; 2]) -> [Vec<R>; 2] {
        let (cos, sin) = reference::tables(self.half, ids[0], ids[1], inv_freq, scaling);
        [cos, sin]
    }
}

impl Kernel<0, 2, 1> for RotateShape {
    const OUTPUTS: [&'static str; 1] = ["x"];

    fn operands(&self) -> Operands<0, 2, 1> {
        let RotateShape { rows, heads, head_dim, rotary_dim, .. } = *self;
        let mut inputs = Inputs::of(&[rows, heads, head_dim, rotary_dim]);
        // cosines and sines of angles, so that `x` does not grow if a bench rotates it again and again
        let angles = inputs.normal(rows * rotary_dim / 2, 2.0);
        let cos = angles.iter().map(|angle| angle.cos()).collect();
        let sin = angles.iter().map(|angle| angle.sin()).collect();
        Operands { ids: [], x: [cos, sin], y: [inputs.normal(rows * heads * head_dim, 1.0)] }
    }

    fn call(&self, device: &Device, Views { x: [cos, sin], y: [x], .. }: Views<'_, 0, 2, 1>) -> Result<()> {
        let RotateShape { rows, heads, head_dim, rotary_dim, direction } = *self;
        let (stride, x) = (heads * head_dim, x.into());
        Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x }.run(device)
    }

    fn reference<R: Real>(&self, _: [&[u32]; 0], [cos, sin]: [&[R]; 2], [mut x]: [Vec<R>; 1]) -> [Vec<R>; 1] {
        reference::rotate([self.heads, self.head_dim, self.rotary_dim], self.direction, cos, sin, &mut x);
        [x]
    }
}
