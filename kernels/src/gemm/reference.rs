//! The three products as loops that look like their formulas. This file defines them.
//!
//! Weights were widened to f32 before, which is exact. With [`Precision::Bf16`] both operands are rounded to bf16 (nearest even)
//! before they are multiplied. The sum is computed in `R`, in the order of the index.

use super::Accumulate;
use crate::Precision;
use crate::real::Real;
use half::bf16;

/// `y[m, n] (+)= alpha * x[m, k] · w[n, k]ᵀ`
pub(crate) fn forward<R: Real>(
    [m, n, k]: [usize; 3],
    alpha: f32,
    x: &[f32],
    w: &[f32],
    y: &mut [R],
    accumulate: Accumulate,
    precision: Precision,
) {
    for row in 0..m {
        for col in 0..n {
            let mut sum = R::ZERO;
            for i in 0..k {
                sum += operand::<R>(x[row * k + i], precision) * operand::<R>(w[col * k + i], precision);
            }
            store(&mut y[row * n + col], alpha, sum, accumulate);
        }
    }
}

/// `dx[m, k] (+)= alpha * dy[m, n] · w[n, k]`
pub(crate) fn dx<R: Real>(
    [m, n, k]: [usize; 3],
    alpha: f32,
    dy: &[f32],
    w: &[f32],
    dx: &mut [R],
    accumulate: Accumulate,
    precision: Precision,
) {
    for row in 0..m {
        for col in 0..k {
            let mut sum = R::ZERO;
            for i in 0..n {
                sum += operand::<R>(dy[row * n + i], precision) * operand::<R>(w[i * k + col], precision);
            }
            store(&mut dx[row * k + col], alpha, sum, accumulate);
        }
    }
}

/// `dw[n, k] (+)= alpha * dy[m, n]ᵀ · x[m, k]`
pub(crate) fn dw<R: Real>(
    [m, n, k]: [usize; 3],
    alpha: f32,
    dy: &[f32],
    x: &[f32],
    dw: &mut [R],
    accumulate: Accumulate,
    precision: Precision,
) {
    for row in 0..n {
        for col in 0..k {
            let mut sum = R::ZERO;
            for i in 0..m {
                sum += operand::<R>(dy[i * n + row], precision) * operand::<R>(x[i * k + col], precision);
            }
            store(&mut dw[row * k + col], alpha, sum, accumulate);
        }
    }
}

fn operand<R: Real>(x: f32, precision: Precision) -> R {
    match precision {
        Precision::F32 => R::from_f32(x),
        Precision::Bf16 => R::from_f32(bf16::from_f32(x).to_f32()),
    }
}

/// Stores a finished sum: scales it, and adds it to `y` or replaces `y`.
fn store<R: Real>(y: &mut R, alpha: f32, sum: R, accumulate: Accumulate) {
    let product = R::from_f32(alpha) * sum;
    *y = match accumulate {
        Accumulate::Set => product,
        Accumulate::Add => *y + product,
    };
}
