//! Four lanes of NEON, which 64-bit Arm calls Advanced SIMD.

use super::{Simd, VectorTask};
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// # Safety
/// The processor has NEON.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees NEON.
    unsafe { task.run::<Neon>() }
}

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn run<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the caller guarantees NEON.
    unsafe { task.run::<Neon>() }
}

impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type V = float32x4_t;
    type Columns = [float32x4_t; 4];

    inlined! {
        fn apart<T: VectorTask>(task: T) -> T::Output { run_apart(task) }
        // The prefetch intrinsic is not stable. The instruction changes no register or memory, and faults at no address.
        fn prefetch<T>(at: *const T) {
            asm!("prfm pldl1keep, [{}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags))
        }
        fn prefetch_far<T>(at: *const T) {
            asm!("prfm pldl2keep, [{}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags))
        }
        fn splat(x: f32) -> float32x4_t { vdupq_n_f32(x) }
        fn load(from: *const f32) -> float32x4_t { vld1q_f32(from) }
        fn store(to: *mut f32, v: float32x4_t) { vst1q_f32(to, v) }
        // NEON has no masks. Lanes are moved one or two at a time, because a copy of `n` floats would call `memcpy`.
        fn load_partial(from: *const f32, n: usize) -> float32x4_t {
            match n {
                0 => vdupq_n_f32(0.0),
                1 => vld1q_lane_f32(from, vdupq_n_f32(0.0), 0),
                2 => vcombine_f32(vld1_f32(from), vdup_n_f32(0.0)),
                3 => vld1q_lane_f32(from.add(2), vcombine_f32(vld1_f32(from), vdup_n_f32(0.0)), 2),
                _ => vld1q_f32(from),
            }
        }
        fn store_partial(to: *mut f32, v: float32x4_t, n: usize) {
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
        fn load_bf16(from: *const bf16) -> float32x4_t { vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from.cast()), 16)) }
        fn store_bf16(to: *mut bf16, v: float32x4_t) {
            vst1_u16(to.cast(), vshrn_n_u32(vreinterpretq_u32_f32(Self::round_to_bf16(v)), 16))
        }
        fn load_f16(from: *const f16) -> float32x4_t { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))) }
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn sqrt(a: float32x4_t) -> float32x4_t { vsqrtq_f32(a) }
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        // Not `vmaxq_f32` and `vminq_f32`, which return NaN if either operand is NaN.
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vbslq_f32(vcgtq_f32(a, b), a, b) }
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t { vbslq_f32(vcltq_f32(a, b), a, b) }
        fn round(a: float32x4_t) -> float32x4_t { vrndnq_f32(a) }
        fn scale_by_power_of_two(a: float32x4_t, n: float32x4_t) -> float32x4_t {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)))
        }
        fn round_to_bf16(a: float32x4_t) -> float32x4_t {
            let bits = vreinterpretq_u32_f32(a);
            let odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
            let cut = vandq_u32(rounded, vdupq_n_u32(0xffff_0000));
            // the addition could overflow a NaN to a zero, and the cut could make it an infinity: use a quiet NaN instead
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(a, a), cut, quiet))
        }
        fn reduce_add(a: float32x4_t) -> f32 { vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a))) }
        fn reduce_max(a: float32x4_t) -> f32 { vmaxnmvq_f32(a) }
        fn columns<T>(from: *const T, stride: usize, last_row: usize) -> Self::Columns {
            let mut rows = [vdupq_n_f32(0.0); 4];
            for i in 0..4 {
                rows[i] = vld1q_f32(from.add(i.min(last_row) * stride).cast());
            }
            let (low02, high02) = (vzip1q_f32(rows[0], rows[2]), vzip2q_f32(rows[0], rows[2]));
            let (low13, high13) = (vzip1q_f32(rows[1], rows[3]), vzip2q_f32(rows[1], rows[3]));
            [vzip1q_f32(low02, low13), vzip2q_f32(low02, low13), vzip1q_f32(high02, high13), vzip2q_f32(high02, high13)]
        }
        fn halves_of_bf16(words: float32x4_t) -> [float32x4_t; 2] {
            let words = vreinterpretq_u32_f32(words);
            let odd = vandq_u32(words, vdupq_n_u32(0xffff_0000));
            [vreinterpretq_f32_u32(vshlq_n_u32(words, 16)), vreinterpretq_f32_u32(odd)]
        }
        fn halves_of_f16(words: float32x4_t) -> [float32x4_t; 2] {
            let words = vreinterpretq_u32_f32(words);
            let (even, odd) = (vmovn_u32(words), vshrn_n_u32(words, 16));
            [vcvt_f32_f16(vreinterpret_f16_u16(even)), vcvt_f32_f16(vreinterpret_f16_u16(odd))]
        }
    }
}
