//! Functions that every instruction set computes the same way.

use super::Simd;

/// `e^r` on [-ln2/2, ln2/2] within a relative 3.8e-9, the highest power first: 1 + r + r² q(r), q of degree 4 by minimax, its
/// coefficients rounded to f32. The Taylor series of the same degree is off by 1.6e-7, more than an f32's own rounding.
pub(crate) const EXP: [f32; 7] = [1.381_459_9e-3, 8.368_717e-3, 4.166_839e-2, 1.666_652_1e-1, 0.499_999_94, 1.0, 1.0];

/// Returns `n` and `e^r`, by [`EXP`], for `x = n ln 2 + r`: Cody-Waite reduction.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn reduced<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: the caller's contract.
    unsafe {
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(EXP[0]);
        // a closure that the compiler does not inline would be compiled without the instruction set
        for &c in &EXP[1..] {
            p = S::fma(p, r, S::splat(c));
        }
        (n, p)
    }
}

/// `e^x`, as `2^n e^r`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract.
    unsafe {
        // x stands second: max and min give back their second operand when one is NaN, so NaN stays NaN
        let clamped = S::min(S::splat(88.722_83), S::max(S::splat(-87.336_54), x));
        let (n, p) = reduced::<S>(clamped);
        // 2^128 is not a float: the last doubling is done apart
        let half = S::min(n, S::splat(127.0));
        let y = S::scale_by_power_of_two(p, half);
        S::mul(y, S::add(S::splat(1.0), S::sub(n, half)))
    }
}

/// [`exp`] for `x <= 0`, without the steps that keep large results finite: two thirds of its instructions.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp_nonpositive<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract.
    unsafe {
        // x stands second: max gives back its second operand when one is NaN
        let clamped = S::max(S::splat(-87.336_54), x);
        let (n, p) = reduced::<S>(clamped);
        S::scale_by_power_of_two(p, n)
    }
}

/// `tanh(x)` as a rational function of a clamped `x`, which needs no exponential and does not cancel near 0.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract.
    unsafe {
        // x * P(x^2) / Q(x^2), a rational minimax fit on [-9, 9] in single precision, beyond which tanh is +-1
        let clamped = S::min(S::splat(7.905_311), S::max(S::splat(-7.905_311), x));
        let x2 = S::mul(clamped, clamped);
        let mut p = S::splat(-2.760_768_5e-16);
        for c in [2.000_188e-13, -8.604_672e-11, 5.122_297_1e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3] {
            p = S::fma(p, x2, S::splat(c));
        }
        let mut q = S::splat(1.198_258_4e-6);
        for c in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
            q = S::fma(q, x2, S::splat(c));
        }
        S::div(S::mul(clamped, p), q)
    }
}
