//! Vector code between two products of the unit: exponentials, rounding to bf16, and masks.

use crate::cpu::vectors::math::EXP;
use std::arch::x86_64::*;
use std::ops::Range;

/// Returns `e^x` of 16 values up to 0. It omits the clamp of [`crate::cpu::vectors::Simd::exp_nonpositive`], so below -87 the
/// result goes to 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn exp(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<8>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693_359_4), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(EXP[0]);
    for &c in &EXP[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// Rounds 32 values to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits wide, and every bit pattern is valid for them.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Returns a mask of 16 lanes: bit `i` is set if `at + i` is inside `range`.
#[inline]
pub(crate) fn lanes(range: &Range<usize>, at: usize) -> __mmask16 {
    let [start, end] = [range.start, range.end].map(|bound| bound.clamp(at, at + 16) - at);
    if start >= end { 0 } else { (((1u32 << end) - 1) & !((1u32 << start) - 1)) as __mmask16 }
}
