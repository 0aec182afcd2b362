//! Eight lanes in plain Rust, for processors that no other file covers. The compiler vectorises what it can.

use super::{Simd, VectorTask};
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 8;
type V = [f32; N];

#[inline(never)]
fn run_apart<T: VectorTask>(task: T) -> T::Output {
    // SAFETY: the portable code needs no extension.
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

/// Returns the bits of the first (`half` is 0) or second (1) 16-bit number of a word.
#[inline(always)]
fn half_of(word: f32, half: usize) -> u16 {
    bytemuck::cast::<f32, [u16; 2]>(word)[half]
}

impl Simd for Portable {
    const LANES: usize = N;
    /// Every x86-64 has sixteen registers of four floats, and one of these vectors takes two of them.
    const REGISTERS: usize = 8;
    type V = V;
    type Columns = [V; N];

    inlined! {
        fn apart<T: VectorTask>(task: T) -> T::Output { run_apart(task) }
        fn prefetch<T>(_: *const T) {}
        fn prefetch_far<T>(_: *const T) {}
        fn splat(x: f32) -> V { [x; N] }
        fn load(from: *const f32) -> V { from.cast::<V>().read_unaligned() }
        fn store(to: *mut f32, v: V) { to.cast::<V>().write_unaligned(v) }
        fn load_partial(from: *const f32, n: usize) -> V {
            std::array::from_fn(|i| if i < n { *from.add(i) } else { 0.0 })
        }
        fn store_partial(to: *mut f32, v: V, n: usize) {
            for (i, x) in v.into_iter().enumerate().take(n) {
                *to.add(i) = x;
            }
        }
        fn load_bf16(from: *const bf16) -> V { std::array::from_fn(|i| (*from.add(i)).to_f32()) }
        fn store_bf16(to: *mut bf16, v: V) {
            for (i, x) in v.into_iter().enumerate() {
                *to.add(i) = bf16::from_f32(x);
            }
        }
        fn load_f16(from: *const f16) -> V { std::array::from_fn(|i| (*from.add(i)).to_f32()) }
        fn add(a: V, b: V) -> V { zip(a, b, |x, y| x + y) }
        fn sub(a: V, b: V) -> V { zip(a, b, |x, y| x - y) }
        fn mul(a: V, b: V) -> V { zip(a, b, |x, y| x * y) }
        fn div(a: V, b: V) -> V { zip(a, b, |x, y| x / y) }
        fn sqrt(a: V) -> V { map(a, f32::sqrt) }
        fn fma(a: V, b: V, c: V) -> V {
            // Not `mul_add`: without a fused instruction it is a slow library call.
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
        fn max(a: V, b: V) -> V { zip(a, b, |x, y| if x > y { x } else { y }) }
        fn min(a: V, b: V) -> V { zip(a, b, |x, y| if x < y { x } else { y }) }
        fn round(a: V) -> V { map(a, f32::round_ties_even) }
        fn scale_by_power_of_two(a: V, n: V) -> V {
            zip(a, n, |x, n| x * f32::from_bits(((n as i32 + 127) as u32) << 23))
        }
        fn round_to_bf16(a: V) -> V { map(a, |x| bf16::from_f32(x).to_f32()) }
        fn reduce_add(a: V) -> f32 {
            let half: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
            (half[0] + half[2]) + (half[1] + half[3])
        }
        fn reduce_max(a: V) -> f32 { a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m }) }
        fn columns<T>(from: *const T, stride: usize, last_row: usize) -> [V; N] {
            std::array::from_fn(|j| {
                std::array::from_fn(|i| from.add(i.min(last_row) * stride).cast::<f32>().add(j).read_unaligned())
            })
        }
        fn halves_of_bf16(words: V) -> [V; 2] {
            [0, 1].map(|half| map(words, |word| bf16::from_bits(half_of(word, half)).to_f32()))
        }
        fn halves_of_f16(words: V) -> [V; 2] {
            [0, 1].map(|half| map(words, |word| f16::from_bits(half_of(word, half)).to_f32()))
        }
    }
}
