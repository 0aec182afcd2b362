//! Functions that every instruction set computes the same way.

use super::Simd;

/// Coefficients of a polynomial for `e^r` on [-ln2/2, ln2/2], the highest power first. Its relative error is at most 3.8e-9. It is
/// 1 + r + r² q(r), where q is a minimax fit of degree 4 with its coefficients rounded to f32. The Taylor series of the same
/// degree is off by 1.6e-7, more than the rounding of an f32.
pub(crate) const EXP: [f32; 7] = [1.381_459_9e-3, 8.368_717e-3, 4.166_839e-2, 1.666_652_1e-1, 0.499_999_94, 1.0, 1.0];

/// Splits `x = n ln 2 + r` by Cody-Waite reduction. Returns `n`, and `e^r` by [`EXP`].
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
unsafe fn reduced<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: the caller guarantees the instruction set of `S`.
    unsafe {
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(EXP[0]);
        // a loop, because a closure that the compiler does not inline is compiled without the instruction set
        for &c in &EXP[1..] {
            p = S::fma(p, r, S::splat(c));
        }
        (n, p)
    }
}

/// Computes `e^x` as `2^n e^r`.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller guarantees the instruction set of `S`.
    unsafe {
        // x is the second operand, which max and min return if either is NaN: so NaN stays NaN
        let clamped = S::min(S::splat(88.722_83), S::max(S::splat(-87.336_54), x));
        let (n, p) = reduced::<S>(clamped);
        // n can be 128, but 2^128 is not an f32: the last doubling is a separate step
        let half = S::min(n, S::splat(127.0));
        let y = S::scale_by_power_of_two(p, half);
        S::mul(y, S::add(S::splat(1.0), S::sub(n, half)))
    }
}

/// [`exp`] for `x <= 0`, without the steps that keep large results finite. It takes two thirds of the instructions.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn exp_nonpositive<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller guarantees the instruction set of `S`.
    unsafe {
        // x is the second operand, which max returns if either is NaN: so NaN stays NaN
        let clamped = S::max(S::splat(-87.336_54), x);
        let (n, p) = reduced::<S>(clamped);
        S::scale_by_power_of_two(p, n)
    }
}

/// Computes `tanh(x)` as a rational function of a clamped `x`. This needs no exponential and does not cancel near 0.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller guarantees the instruction set of `S`.
    unsafe {
        // x * P(x^2) / Q(x^2), a rational minimax fit on [-9, 9] in single precision. Beyond the clamp the result stays at
        // +-0.9999997, which is within 5 units in the last place of tanh.
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
