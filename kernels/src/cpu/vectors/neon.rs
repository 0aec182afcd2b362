//! Four lanes of NEON, which 64-bit Arm calls Advanced SIMD.

use super::{Simd, VectorTask};
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
pub struct Neon;

/// # Safety
/// As [`run`].
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller's contract.
    unsafe { task.run::<Neon>() }
}

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub unsafe fn run<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller's contract.
    unsafe { task.run::<Neon>() }
}

/// Column `j` of a block of 4 rows of 4 words, for j in order.
#[inline(always)]
unsafe fn transposed_words<T>(from: *const T, stride: usize, last_row: usize) -> [float32x4_t; 4] {
    // SAFETY: the caller's rows hold 4 words each; the instruction set by the trait's contract.
    unsafe {
        let mut rows = [vdupq_n_f32(0.0); 4];
        for i in 0..4 {
            rows[i] = vld1q_f32(from.add(i.min(last_row) * stride).cast());
        }
        let (low02, high02) = (vzip1q_f32(rows[0], rows[2]), vzip2q_f32(rows[0], rows[2]));
        let (low13, high13) = (vzip1q_f32(rows[1], rows[3]), vzip2q_f32(rows[1], rows[3]));
        [vzip1q_f32(low02, low13), vzip2q_f32(low02, low13), vzip1q_f32(high02, high13), vzip2q_f32(high02, high13)]
    }
}

// SAFETY of the blocks below: the instruction set and the pointers are valid, by the trait's contract.
impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn apart<T: VectorTask>(task: T) -> T::Output {
        unsafe { run_apart(task) }
    }
    // The intrinsic for prefetches is not stable. The instruction changes nothing and faults at no address.
    #[inline(always)]
    unsafe fn prefetch<T>(at: *const T) {
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn prefetch_far<T>(at: *const T) {
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(to, v) }
    }
    // There are no masks. Lanes are moved in pieces: a copy of `n` floats would call `memcpy`.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> float32x4_t {
        unsafe {
            match n {
                0 => vdupq_n_f32(0.0),
                1 => vld1q_lane_f32(from, vdupq_n_f32(0.0), 0),
                2 => vcombine_f32(vld1_f32(from), vdup_n_f32(0.0)),
                3 => vld1q_lane_f32(from.add(2), vcombine_f32(vld1_f32(from), vdup_n_f32(0.0)), 2),
                _ => vld1q_f32(from),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: float32x4_t, n: usize) {
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32(to, v, 0),
                2 => vst1_f32(to, vget_low_f32(v)),
                3 => {
                    vst1_f32(to, vget_low_f32(v));
                    vst1q_lane_f32(to.add(2), v, 2);
                }
                _ => vst1q_f32(to, v),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from.cast()), 16)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: float32x4_t) {
        unsafe { vst1_u16(to.cast(), vshrn_n_u32(vreinterpretq_u32_f32(Self::round_to_bf16(v)), 16)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> float32x4_t {
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: float32x4_t) -> float32x4_t {
        unsafe { vsqrtq_f32(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    // Not `vmaxq_f32` and `vminq_f32`, which give NaN where either operand is.
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)))
        }
    }
    #[inline(always)]
    unsafe fn round_to_bf16(a: float32x4_t) -> float32x4_t {
        unsafe {
            let bits = vreinterpretq_u32_f32(a);
            let odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
            let cut = vandq_u32(rounded, vdupq_n_u32(0xffff_0000));
            // adding could carry a NaN's payload into infinity, cutting could clear it: a quiet NaN instead
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(a, a), cut, quiet))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add(a: float32x4_t) -> f32 {
        unsafe { vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a))) }
    }
    #[inline(always)]
    unsafe fn reduce_max(a: float32x4_t) -> f32 {
        unsafe { vmaxnmvq_f32(a) }
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
                let pairs = vreinterpretq_u32_f32(pairs);
                let even = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
                let odd = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000)));
                Self::store(to.add(2 * j * to_stride), even);
                Self::store(to.add((2 * j + 1) * to_stride), odd);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_f16(from: *const f16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            for (j, pairs) in transposed_words(from, stride, last_row).into_iter().enumerate() {
                let pairs = vreinterpretq_u32_f32(pairs);
                let (even, odd) = (vmovn_u32(pairs), vshrn_n_u32(pairs, 16));
                Self::store(to.add(2 * j * to_stride), vcvt_f32_f16(vreinterpret_f16_u16(even)));
                Self::store(to.add((2 * j + 1) * to_stride), vcvt_f32_f16(vreinterpret_f16_u16(odd)));
            }
        }
    }
}
