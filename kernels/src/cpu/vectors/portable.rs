//! Eight lanes in plain Rust, for processors without their own file. The compiler vectorises what it can.

use super::{Simd, VectorTask};
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub struct Portable;

const N: usize = 8;
type V = [f32; N];

#[inline(never)]
fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: needs no extension.
    unsafe { task.run::<Portable>() }
}

#[inline(always)]
fn map(a: V, f: impl Fn(f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY of the blocks below: pointers are valid for the lanes read or written, by the trait's contract.
impl Simd for Portable {
    const LANES: usize = N;
    /// Of the sixteen that every x86-64 has, two hold one of these.
    const REGISTERS: usize = 8;
    type V = V;

    #[inline(always)]
    unsafe fn apart<T: VectorTask>(task: T) -> T::Output {
        run_apart(task)
    }
    #[inline(always)]
    unsafe fn prefetch<T>(_: *const T) {}
    #[inline(always)]
    unsafe fn prefetch_far<T>(_: *const T) {}
    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: see above.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        // SAFETY: see above.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> V {
        // SAFETY: see above; lanes at and above n are not touched.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: see above.
            unsafe { *to.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> V {
        // SAFETY: see above.
        std::array::from_fn(|i| unsafe { *from.add(i) }.to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { to.add(i).write(bf16::from_f32(x)) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> V {
        // SAFETY: see above.
        std::array::from_fn(|i| unsafe { *from.add(i) }.to_f32())
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn sqrt(a: V) -> V {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        // Not `mul_add`: without the instruction it is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: V, n: V) -> V {
        zip(a, n, |x, n| x * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn round_to_bf16(a: V) -> V {
        map(a, |x| bf16::from_f32(x).to_f32())
    }
    #[inline(always)]
    unsafe fn reduce_add(a: V) -> f32 {
        let half: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (half[0] + half[2]) + (half[1] + half[3])
    }
    #[inline(always)]
    unsafe fn reduce_max(a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    unsafe fn transpose_f32(from: *const f32, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        for i in 0..N {
            for j in 0..N {
                // SAFETY: see above.
                unsafe { *to.add(j * to_stride + i) = *from.add(i.min(last_row) * stride + j) };
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_bf16(from: *const bf16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        for i in 0..N {
            for j in 0..2 * N {
                // SAFETY: see above.
                unsafe { *to.add(j * to_stride + i) = (*from.add(i.min(last_row) * stride + j)).to_f32() };
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_f16(from: *const f16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
        for i in 0..N {
            for j in 0..2 * N {
                // SAFETY: see above.
                unsafe { *to.add(j * to_stride + i) = (*from.add(i.min(last_row) * stride + j)).to_f32() };
            }
        }
    }
}
