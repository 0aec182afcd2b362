//! Fast version: blocks of rows over the threads; a row is read for its sum and, from cache, for its output.

use super::{Backward, Forward};
use crate::cpu::blocks::rows_per_block;
use crate::cpu::simd::pointwise::{Map, Pointwise};
use crate::cpu::simd::{Simd, VectorTask};
use crate::device::Cpu;

pub(super) fn forward(cpu: &Cpu, call: Forward<'_>) {
    let Forward { rows: _, cols, eps, offset, x, weight, y, rstd } = call;
    let block = rows_per_block(cols);
    let blocks = x.cpu().chunks(block * cols).zip(y.cpu().chunks_mut(block * cols)).zip(rstd.cpu().chunks_mut(block));
    let weight = weight.cpu();
    cpu.for_each_block(blocks, |((x, y), rstd)| {
        cpu.isa().dispatch(ForwardRows { cols, eps, offset, x, weight, y, rstd })
    });
}

pub(super) fn backward(cpu: &Cpu, call: Backward<'_>) {
    let Backward { rows: _, cols, offset, x, weight, rstd, dy, dx } = call;
    let block = rows_per_block(cols);
    let blocks = x
        .cpu()
        .chunks(block * cols)
        .zip(dy.cpu().chunks(block * cols))
        .zip(dx.cpu().chunks_mut(block * cols))
        .zip(rstd.cpu().chunks(block));
    let weight = weight.cpu();
    cpu.for_each_block(blocks, |(((x, dy), dx), rstd)| {
        cpu.isa().dispatch(BackwardRows { cols, offset, x, weight, rstd, dy, dx });
    });
}

struct ForwardRows<'a> {
    cols: usize,
    eps: f32,
    offset: f32,
    x: &'a [f32],
    weight: &'a [f32],
    y: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl VectorTask for ForwardRows<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.x.chunks_exact(self.cols).zip(self.y.chunks_exact_mut(self.cols)).zip(self.rstd);
        for ((x, y), rstd) in rows {
            // SAFETY: `dispatch` gives the instruction set.
            unsafe {
                let mean = (WeightedDot::<SUM_OF_SQUARES> { offset: 0.0, weight: x, a: x, b: x }).run::<S>()
                    / self.cols as f32;
                *rstd = 1.0 / (mean + self.eps).sqrt();
                let f = Scale { rstd: *rstd, offset: self.offset };
                (Map { f: &f, x: [x, self.weight], y: [y] }).run::<S>();
            }
        }
    }
}

/// `y = x * rstd * (offset + weight)`
struct Scale {
    rstd: f32,
    offset: f32,
}

impl Pointwise<2, 1> for Scale {
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x, weight]: [S::V; 2], _: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe { [S::mul(S::mul(x, S::splat(self.rstd)), S::add(S::splat(self.offset), weight))] }
    }
}

struct BackwardRows<'a> {
    cols: usize,
    offset: f32,
    x: &'a [f32],
    weight: &'a [f32],
    rstd: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl VectorTask for BackwardRows<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BackwardRows { cols, offset, x, weight, rstd, dy, dx } = self;
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)).zip(rstd);
        for (((x, dy), dx), &rstd) in rows {
            // SAFETY: `dispatch` gives the instruction set.
            unsafe {
                let dot = (WeightedDot::<WEIGHTED> { offset, weight, a: dy, b: x }).run::<S>();
                let f = AddGradient { rstd, offset, along_x: rstd * rstd * (dot / cols as f32) };
                (Map { f: &f, x: [x, weight, dy], y: [dx] }).run::<S>();
            }
        }
    }
}

/// `dx += rstd * ((offset + weight) * dy - x * along_x)`
struct AddGradient {
    rstd: f32,
    offset: f32,
    along_x: f32,
}

impl Pointwise<3, 1> for AddGradient {
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x, weight, dy]: [S::V; 3], [dx]: [S::V; 1]) -> [S::V; 1] {
        // SAFETY: the caller's contract.
        unsafe {
            let weighted = S::mul(S::add(S::splat(self.offset), weight), dy);
            let direction = S::sub(weighted, S::mul(x, S::splat(self.along_x)));
            [S::add(dx, S::mul(S::splat(self.rstd), direction))]
        }
    }
}

/// [`WeightedDot`] is `Σ a·b`.
const SUM_OF_SQUARES: bool = false;
/// [`WeightedDot`] is `Σ (offset + weight)·a·b`.
const WEIGHTED: bool = true;

/// A sum over one row, in an order that its length alone decides: four running vectors, added in pairs.
struct WeightedDot<'a, const USE_WEIGHT: bool> {
    offset: f32,
    weight: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl<const USE_WEIGHT: bool> VectorTask for WeightedDot<'_, USE_WEIGHT> {
    type Output = f32;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let WeightedDot { offset, weight, a, b } = self;
        let n = a.len();
        assert!(weight.len() == n && b.len() == n, "operands of one row have one length");
        // SAFETY: the slices have n elements and the reads end at or before n.
        unsafe {
            let offset = S::splat(offset);
            let mut sums = [S::splat(0.0); 4];
            let mut at = 0;
            while at + 4 * S::LANES <= n {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let at = at + j * S::LANES;
                    let mut a = S::load(a.as_ptr().add(at));
                    if USE_WEIGHT {
                        a = S::mul(a, S::add(offset, S::load(weight.as_ptr().add(at))));
                    }
                    *sum = S::fma(a, S::load(b.as_ptr().add(at)), *sum);
                }
                at += 4 * S::LANES;
            }
            while at < n {
                let lanes = S::LANES.min(n - at);
                let mut a = S::load_partial(a.as_ptr().add(at), lanes);
                if USE_WEIGHT {
                    a = S::mul(a, S::add(offset, S::load_partial(weight.as_ptr().add(at), lanes)));
                }
                sums[0] = S::fma(a, S::load_partial(b.as_ptr().add(at), lanes), sums[0]);
                at += lanes;
            }
            S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
        }
    }
}
