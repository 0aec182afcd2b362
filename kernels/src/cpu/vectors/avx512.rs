//! Sixteen lanes of AVX-512.

use super::{Simd, VectorTask};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx512;

/// # Safety
/// As [`run`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller's contract.
    unsafe { task.run::<Avx512>() }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, and what AVX2 code needs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn run<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller's contract.
    unsafe { task.run::<Avx512>() }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as u16
}

/// Column `j` of a block of 16 rows of 16 words, for j in order: 32 shuffles, the rest are loads.
#[inline(always)]
unsafe fn transposed_words<T>(from: *const T, stride: usize, last_row: usize) -> [__m512; 16] {
    // SAFETY: the caller's rows hold 16 words each; the instruction set by the trait's contract.
    unsafe {
        let mut columns = [_mm512_setzero_ps(); 16];
        for quarter in 0..4 {
            let word = |row: usize| from.add(row.min(last_row) * stride).cast::<f32>().add(4 * quarter);
            let mut rows = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                // four words of rows i, i + 4, i + 8 and i + 12
                let v = _mm512_castps128_ps512(_mm_loadu_ps(word(i)));
                let v = _mm512_insertf32x4(v, _mm_loadu_ps(word(i + 4)), 1);
                let v = _mm512_insertf32x4(v, _mm_loadu_ps(word(i + 8)), 2);
                rows[i] = _mm512_insertf32x4(v, _mm_loadu_ps(word(i + 12)), 3);
            }
            let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[0], rows[1]));
            let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[0], rows[1]));
            let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2], rows[3]));
            let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2], rows[3]));
            columns[4 * quarter] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
            columns[4 * quarter + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
            columns[4 * quarter + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
            columns[4 * quarter + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
        }
        columns
    }
}

/// The low 16 bits of each lane.
#[inline(always)]
unsafe fn low_halves(words: __m512i) -> __m256i {
    // SAFETY: AVX-512, by the trait's contract.
    unsafe { _mm512_cvtepi32_epi16(words) }
}

// SAFETY of the blocks below: the instruction set and the pointers are valid, by the trait's contract.
impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type V = __m512;

    #[inline(always)]
    unsafe fn apart<T: VectorTask>(task: T) -> T::Output {
        unsafe { run_apart(task) }
    }
    #[inline(always)]
    unsafe fn prefetch<T>(at: *const T) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_far<T>(at: *const T) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m512 {
        unsafe {
            let raw = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: __m512) {
        unsafe {
            let upper = _mm512_srli_epi32(_mm512_castps_si512(Self::round_to_bf16(v)), 16);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn round_to_bf16(a: __m512) -> __m512 {
        unsafe {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let cut = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            // adding could carry a NaN's payload into infinity, cutting could clear it: a quiet NaN instead
            let quiet = _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000)));
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), cut, quiet)
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: __m512) -> f32 {
        unsafe {
            let low = _mm512_castps512_ps256(a);
            let half = _mm256_add_ps(low, _mm512_extractf32x8_ps(a, 1));
            let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
            let eighth = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(eighth, _mm_shuffle_ps(eighth, eighth, 1)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn transpose_f32(from: *const f32, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            for (j, column) in transposed_words(from, stride, last_row).into_iter().enumerate() {
                Self::store(to.add(j * to_stride), column);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_bf16(from: *const bf16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            for (j, pairs) in transposed_words(from, stride, last_row).into_iter().enumerate() {
                let pairs = _mm512_castps_si512(pairs);
                let even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                let odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
                Self::store(to.add(2 * j * to_stride), even);
                Self::store(to.add((2 * j + 1) * to_stride), odd);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_f16(from: *const f16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            for (j, pairs) in transposed_words(from, stride, last_row).into_iter().enumerate() {
                let pairs = _mm512_castps_si512(pairs);
                let (even, odd) = (low_halves(pairs), low_halves(_mm512_srli_epi32(pairs, 16)));
                Self::store(to.add(2 * j * to_stride), _mm512_cvtph_ps(even));
                Self::store(to.add((2 * j + 1) * to_stride), _mm512_cvtph_ps(odd));
            }
        }
    }
}
