//! Corners of outputs: blocks of up to 32 x 32 elements. Their sums are computed in a full block of sums and copied from there.

use super::OutputValues;
use crate::cpu::unit::block_sum::BLOCK;
use half::bf16;
use std::arch::x86_64::*;

/// Up to 32 x 32 elements of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Corner {
    /// Elements from row to row.
    pub(super) stride: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Corner {
    /// Returns a mask of the corner's columns among the 16 columns of vector `half` (0 or 1) of a row.
    fn lanes(self, half: usize) -> __mmask16 {
        (((1u64 << self.width) - 1) >> (16 * half)) as __mmask16
    }

    /// Copies the corner to a block of sums.
    ///
    /// # Safety
    /// `from` holds the corner, and `sums` holds 32 rows of 32 floats.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn load<T: Number>(self, from: *const T, sums: *mut f32) {
        for row in 0..self.height {
            for half in 0..2 {
                // SAFETY: only the columns of the mask are read; `sums` holds 32 floats for each row of the corner.
                unsafe {
                    let v = T::load(self.lanes(half), from.wrapping_add(row * self.stride + 16 * half));
                    _mm512_storeu_ps(sums.add(row * BLOCK + 16 * half), v);
                }
            }
        }
    }

    /// `to (+)= alpha * sums`
    ///
    /// # Safety
    /// `sums` holds 32 rows of 32 floats. `to` holds the corner, and nobody else touches it.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn store(self, sums: *const f32, alpha: f32, add: bool, to: *mut f32) {
        let alpha = _mm512_set1_ps(alpha);
        for row in 0..self.height {
            for half in 0..2 {
                let lanes = self.lanes(half);
                // SAFETY: `sums` holds 32 floats for each row of the corner; of `to`, only the columns of the mask are touched.
                unsafe {
                    let to = to.wrapping_add(row * self.stride + 16 * half);
                    let v = _mm512_loadu_ps(sums.add(row * BLOCK + 16 * half));
                    let before = _mm512_maskz_loadu_ps(lanes, to);
                    let v = if add { _mm512_fmadd_ps(alpha, v, before) } else { _mm512_mul_ps(alpha, v) };
                    _mm512_mask_storeu_ps(to, lanes, v);
                }
            }
        }
    }

    /// As [`Corner::store`], but rounds the results to bf16.
    ///
    /// # Safety
    /// `sums` holds 32 rows of 32 floats. `to` holds the corner, and nobody else touches it.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn store_bf16(self, sums: *const f32, alpha: f32, add: bool, to: *mut bf16) {
        let scale = _mm512_set1_ps(alpha);
        let lanes = ((1u64 << self.width) - 1) as __mmask32;
        for row in 0..self.height {
            // SAFETY: `sums` holds 32 floats for each row of the corner; of `to`, only the columns of the mask are touched. Both
            // vector types are 512 bits wide, and every bit pattern is valid for them.
            unsafe {
                let to = to.wrapping_add(row * self.stride);
                let mut low = _mm512_loadu_ps(sums.add(row * BLOCK));
                let mut high = _mm512_loadu_ps(sums.add(row * BLOCK + 16));
                if add {
                    low = _mm512_fmadd_ps(scale, low, bf16::load(self.lanes(0), to));
                    high = _mm512_fmadd_ps(scale, high, bf16::load(self.lanes(1), to.wrapping_add(16)));
                } else if alpha != 1.0 {
                    (low, high) = (_mm512_mul_ps(scale, low), _mm512_mul_ps(scale, high));
                }
                let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_epi16(to.cast(), lanes, rounded);
            }
        }
    }
}

impl OutputValues {
    /// Copies a corner that begins at element `place` to a block of sums.
    ///
    /// # Safety
    /// As [`Corner::load`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn load(self, corner: Corner, place: usize, sums: *mut f32) {
        // SAFETY: the caller guarantees that the output holds the corner, and that `sums` holds 32 rows of 32 floats.
        unsafe {
            match self {
                OutputValues::F32(output) => corner.load(output.wrapping_add(place), sums),
                OutputValues::Bf16(output) => corner.load(output.wrapping_add(place), sums),
            }
        }
    }

    /// `output (+)= alpha * sums` in a corner that begins at element `place`.
    ///
    /// # Safety
    /// As [`Corner::store`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn store(self, corner: Corner, sums: *const f32, alpha: f32, add: bool, place: usize) {
        // SAFETY: the caller guarantees that `sums` holds 32 rows of 32 floats, and that nobody else touches the corner.
        unsafe {
            match self {
                OutputValues::F32(output) => corner.store(sums, alpha, add, output.wrapping_add(place)),
                OutputValues::Bf16(output) => corner.store_bf16(sums, alpha, add, output.wrapping_add(place)),
            }
        }
    }
}

/// A number format of outputs.
pub(super) trait Number: Copy {
    /// # Safety
    /// The processor has AVX-512 with bf16; `from` can be read in the lanes of the mask.
    unsafe fn load(lanes: __mmask16, from: *const Self) -> __m512;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load(lanes: __mmask16, from: *const f32) -> __m512 {
        // SAFETY: the lanes of the mask can be read, by the contract of `Number::load`.
        unsafe { _mm512_maskz_loadu_ps(lanes, from) }
    }
}

impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load(lanes: __mmask16, from: *const bf16) -> __m512 {
        // SAFETY: the lanes of the mask can be read, by the contract of `Number::load`.
        let raw = unsafe { _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(__mmask32::from(lanes), from.cast())) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(raw)))
    }
}
