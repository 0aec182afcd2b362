//! Sixteen lanes of AVX-512.

use super::{Simd, VectorTask};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
    unsafe { task.run::<Avx512>() }
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn run<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
    unsafe { task.run::<Avx512>() }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as u16
}

/// Returns the low 16 bits of each lane.
#[inline(always)]
unsafe fn low_halves(words: __m512i) -> __m256i {
    // SAFETY: the processor has AVX-512, by the contract of `Simd`.
    unsafe { _mm512_cvtepi32_epi16(words) }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type V = __m512;
    type Columns = [__m512; 16];

    inlined! {
        fn apart<T: VectorTask>(task: T) -> T::Output { run_apart(task) }
        fn prefetch<T>(at: *const T) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        fn prefetch_far<T>(at: *const T) { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store(to: *mut f32, v: __m512) { _mm512_storeu_ps(to, v) }
        fn load_partial(from: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(mask(n), from) }
        fn store_partial(to: *mut f32, v: __m512, n: usize) { _mm512_mask_storeu_ps(to, mask(n), v) }
        fn load_bf16(from: *const bf16) -> __m512 {
            let raw = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))
        }
        fn store_bf16(to: *mut bf16, v: __m512) {
            let upper = _mm512_srli_epi32(_mm512_castps_si512(Self::round_to_bf16(v)), 16);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
        }
        fn load_f16(from: *const f16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn sqrt(a: __m512) -> __m512 { _mm512_sqrt_ps(a) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn round(a: __m512) -> __m512 { _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) }
        fn scale_by_power_of_two(a: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(a, n) }
        fn round_to_bf16(a: __m512) -> __m512 {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let cut = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            // the addition could overflow a NaN to a zero, and the cut could make it an infinity: use a quiet NaN instead
            let quiet = _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000)));
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), cut, quiet)
        }
        fn reduce_add(a: __m512) -> f32 {
            let low = _mm512_castps512_ps256(a);
            let half = _mm256_add_ps(low, _mm512_extractf32x8_ps(a, 1));
            let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
            let eighth = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(eighth, _mm_shuffle_ps(eighth, eighth, 1)))
        }
        fn reduce_max(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        // 32 shuffles; everything else is a load, because the insertions read from memory
        fn columns<T>(from: *const T, stride: usize, last_row: usize) -> Self::Columns {
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
        fn halves_of_bf16(words: __m512) -> [__m512; 2] {
            let words = _mm512_castps_si512(words);
            let odd = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(odd)]
        }
        fn halves_of_f16(words: __m512) -> [__m512; 2] {
            let words = _mm512_castps_si512(words);
            [_mm512_cvtph_ps(low_halves(words)), _mm512_cvtph_ps(low_halves(_mm512_srli_epi32(words, 16)))]
        }
    }
}
