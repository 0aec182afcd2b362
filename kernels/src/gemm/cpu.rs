//! Rows in parallel, plain loops inside.

use super::{Accumulate, Dw, Dx, Forward};
use crate::device::Cpu;
use crate::{Precision, Slice, SliceMut, WeightSlice};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

pub(super) fn forward(call: Forward<'_>, cpu: &Cpu) {
    let Forward { n, k, alpha, accumulate, precision, .. } = call;
    let Slice::Cpu(x) = call.x;
    let SliceMut::Cpu(y) = call.y;
    let (x, w) = (rounded(Cow::Borrowed(x), precision), rounded(widened(call.w), precision));
    cpu.install(|| {
        y.par_chunks_mut(n.max(1)).zip(x.par_chunks(k.max(1))).for_each(|(y, x)| {
            for (col, y) in y.iter_mut().enumerate() {
                let sum = x.iter().zip(&w[col * k..(col + 1) * k]).fold(0.0, |sum: f32, (a, b)| sum + a * b);
                store(y, alpha, sum, accumulate);
            }
        });
    });
}

pub(super) fn dx(call: Dx<'_>, cpu: &Cpu) {
    let Dx { n, k, alpha, accumulate, precision, .. } = call;
    let Slice::Cpu(dy) = call.dy;
    let SliceMut::Cpu(dx) = call.dx;
    let (dy, w) = (rounded(Cow::Borrowed(dy), precision), rounded(widened(call.w), precision));
    cpu.install(|| {
        dx.par_chunks_mut(k.max(1)).enumerate().for_each(|(row, dx)| {
            let mut sum = vec![0.0f32; k];
            for i in 0..n {
                let factor = dy[row * n + i];
                sum.iter_mut().zip(&w[i * k..(i + 1) * k]).for_each(|(sum, w)| *sum += factor * w);
            }
            dx.iter_mut().zip(sum).for_each(|(dx, sum)| store(dx, alpha, sum, accumulate));
        });
    });
}

pub(super) fn dw(call: Dw<'_>, cpu: &Cpu) {
    let Dw { m, n, k, alpha, accumulate, precision, .. } = call;
    let (Slice::Cpu(dy), Slice::Cpu(x)) = (call.dy, call.x);
    let SliceMut::Cpu(dw) = call.dw;
    let (dy, x) = (rounded(Cow::Borrowed(dy), precision), rounded(Cow::Borrowed(x), precision));
    cpu.install(|| {
        dw.par_chunks_mut(k.max(1)).enumerate().for_each(|(row, dw)| {
            let mut sum = vec![0.0f32; k];
            for i in 0..m {
                let factor = dy[i * n + row];
                sum.iter_mut().zip(&x[i * k..(i + 1) * k]).for_each(|(sum, x)| *sum += factor * x);
            }
            dw.iter_mut().zip(sum).for_each(|(dw, sum)| store(dw, alpha, sum, accumulate));
        });
    });
}

fn widened(w: WeightSlice<'_>) -> Cow<'_, [f32]> {
    match w {
        WeightSlice::F32(Slice::Cpu(w)) => Cow::Borrowed(w),
        WeightSlice::F16(Slice::Cpu(w)) => w.iter().map(|w| w.to_f32()).collect(),
        WeightSlice::Bf16(Slice::Cpu(w)) => w.iter().map(|w| w.to_f32()).collect(),
    }
}

fn rounded(x: Cow<'_, [f32]>, precision: Precision) -> Cow<'_, [f32]> {
    match precision {
        Precision::F32 => x,
        Precision::Bf16 => x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect(),
    }
}

fn store(y: &mut f32, alpha: f32, sum: f32, accumulate: Accumulate) {
    *y = match accumulate {
        Accumulate::Set => alpha * sum,
        Accumulate::Add => *y + alpha * sum,
    };
}
