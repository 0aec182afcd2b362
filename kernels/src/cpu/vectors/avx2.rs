//! Eight lanes of AVX2 with FMA.

use super::{Simd, VectorTask};
use half::{bf16, f16};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees AVX2, FMA and F16C.
    unsafe { task.run::<Avx2>() }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn run<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees AVX2, FMA and F16C.
    unsafe { task.run::<Avx2>() }
}

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the processor has AVX2, by the contract of `Simd`.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// Returns the low 16 bits of each lane.
#[inline(always)]
unsafe fn low_halves(words: __m256i) -> __m128i {
    // SAFETY: the processor has AVX2, by the contract of `Simd`.
    unsafe {
        let low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
        // `packus` packs each 128-bit half by itself, so the wanted 64-bit quarters are 0 and 2
        _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0b1000))
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type V = __m256;
    type Columns = [__m256; 8];

    inlined! {
        fn apart<T: VectorTask>(task: T) -> T::Output { run_apart(task) }
        fn prefetch<T>(at: *const T) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        fn prefetch_far<T>(at: *const T) { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
        fn load_partial(from: *const f32, n: usize) -> __m256 { _mm256_maskload_ps(from, mask(n)) }
        fn store_partial(to: *mut f32, v: __m256, n: usize) { _mm256_maskstore_ps(to, mask(n), v) }
        fn load_bf16(from: *const bf16) -> __m256 {
            let raw = _mm_loadu_si128(from.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16))
        }
        fn store_bf16(to: *mut bf16, v: __m256) {
            let upper = _mm256_srli_epi32(_mm256_castps_si256(Self::round_to_bf16(v)), 16);
            // `packus` packs each 128-bit half by itself, so its result is lanes 0-3 twice, then lanes 4-7 twice
            let packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0b1000);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
        fn load_f16(from: *const f16) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn sqrt(a: __m256) -> __m256 { _mm256_sqrt_ps(a) }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn round(a: __m256) -> __m256 { _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) }
        fn scale_by_power_of_two(a: __m256, n: __m256) -> __m256 {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))
        }
        fn round_to_bf16(a: __m256) -> __m256 {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let cut = _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
            // the addition could overflow a NaN to a zero, and the cut could make it an infinity: use a quiet NaN instead
            let quiet = _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000)));
            _mm256_blendv_ps(cut, quiet, _mm256_cmp_ps(a, a, _CMP_UNORD_Q))
        }
        fn reduce_add(a: __m256) -> f32 {
            let half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)))
        }
        fn reduce_max(a: __m256) -> f32 {
            let half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)))
        }
        fn columns<T>(from: *const T, stride: usize, last_row: usize) -> Self::Columns {
            let mut columns = [_mm256_setzero_ps(); 8];
            for half in 0..2 {
                let word = |row: usize| from.add(row.min(last_row) * stride).cast::<f32>().add(4 * half);
                let mut rows = [_mm256_setzero_ps(); 4];
                for i in 0..4 {
                    // four words of rows i and i + 4
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(word(i)));
                    rows[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(word(i + 4)), 1);
                }
                let low01 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[0], rows[1]));
                let high01 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[0], rows[1]));
                let low23 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[2], rows[3]));
                let high23 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[2], rows[3]));
                columns[4 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
                columns[4 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
                columns[4 * half + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
                columns[4 * half + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
            }
            columns
        }
        fn halves_of_bf16(words: __m256) -> [__m256; 2] {
            let words = _mm256_castps_si256(words);
            let odd = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)), _mm256_castsi256_ps(odd)]
        }
        fn halves_of_f16(words: __m256) -> [__m256; 2] {
            let words = _mm256_castps_si256(words);
            [_mm256_cvtph_ps(low_halves(words)), _mm256_cvtph_ps(low_halves(_mm256_srli_epi32(words, 16)))]
        }
    }
}
