//! Vector code written once: a kernel body is generic over [`Simd`] and runs as one of its instances.
//!
//! ```ignore
//! struct Scale<'a> { y: &'a mut [f32], by: f32 }
//! impl VectorTask for Scale<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     unsafe fn run<S: Simd>(self) { /* S::load, S::mul, S::store */ }
//! }
//! isa.dispatch(Scale { y, by });
//! ```
//!
//! The body is compiled once per instruction set, inside a function that enables that set. Closures and calls that are not
//! `#[inline(always)]` may be compiled outside that function, without the instruction set. So split the work over threads first,
//! and call `dispatch` inside each thread's task.

/// Defines functions that are inlined into the task that calls them. Their unsafe code relies on the contract of their trait:
/// the processor has the instruction set, and the pointers are valid.
macro_rules! inlined {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident $(<$T:ident $(: $bound:ident)?>)? ($($argument:tt)*) $(-> $output:ty)? { $($body:tt)* }
    )*) => {$(
        $(#[$attribute])*
        #[inline(always)]
        #[allow(unused_unsafe, reason = "plain Rust needs none")]
        unsafe fn $name $(<$T $(: $bound)?>)? ($($argument)*) $(-> $output)? {
            // SAFETY: by the trait's contract the processor has the instruction set, and the pointers are valid.
            unsafe { $($body)* }
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod burst;
pub(crate) mod convert;
pub(super) mod math;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(crate) mod pointwise;
pub(super) mod portable;

use crate::formats::Element;
use half::{bf16, f16};

/// Vectors of f32 in one instruction set. All functions need that set: call them only in a task that [`super::Isa::dispatch`] runs.
///
/// # Safety
/// For every function: the processor has the instruction set, and pointers are valid for the lanes they are read or written at.
pub(crate) trait Simd: Copy + 'static {
    /// Lanes of a vector.
    const LANES: usize;
    /// Vectors that the register file holds.
    const REGISTERS: usize;
    /// A vector of f32.
    type V: Copy;
    /// An array of LANES vectors.
    type Columns: IntoIterator<Item = Self::V>;

    /// Runs a task in this instruction set, in a function that is never inlined, so that it shares no registers with the caller.
    unsafe fn apart<T: VectorTask>(task: T) -> T::Output;
    /// Prefetches the cache line at `at`, which need not be valid, into the first-level cache.
    unsafe fn prefetch<T>(at: *const T);
    /// Prefetches the cache line at `at`, which need not be valid, into the second-level cache.
    unsafe fn prefetch_far<T>(at: *const T);
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Loads the first `n <= LANES` lanes. The other lanes are 0.
    unsafe fn load_partial(from: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= LANES` lanes.
    unsafe fn store_partial(to: *mut f32, v: Self::V, n: usize);
    /// Loads LANES bf16 values, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// Stores LANES values, rounded to bf16 as by [`Simd::round_to_bf16`].
    unsafe fn store_bf16(to: *mut bf16, v: Self::V);
    /// Loads LANES f16 values, widened.
    unsafe fn load_f16(from: *const f16) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once if the set has a fused instruction.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the larger number of each lane, or that of `b` if either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller number of each lane, or that of `b` if either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Rounds to the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -126..=127.
    unsafe fn scale_by_power_of_two(a: Self::V, n: Self::V) -> Self::V;
    /// Rounds each lane to bf16 (nearest even) and widens it again; NaN stays NaN.
    unsafe fn round_to_bf16(a: Self::V) -> Self::V;
    /// Sums the lanes in a fixed order: adds the upper half of the lanes to the lower half until one lane is left.
    unsafe fn reduce_add(a: Self::V) -> f32;
    unsafe fn reduce_max(a: Self::V) -> f32;

    /// Reads LANES rows of LANES words and returns their columns in order. A word is an f32 or two 16-bit numbers. Row `i` starts
    /// at `from + min(i, last_row) * stride`, in elements of `T`.
    unsafe fn columns<T>(from: *const T, stride: usize, last_row: usize) -> Self::Columns;
    /// Splits lanes that are two bf16 each. Returns the first of every lane and the second of every lane, widened.
    unsafe fn halves_of_bf16(words: Self::V) -> [Self::V; 2];
    /// Splits lanes that are two f16 each. Returns the first of every lane and the second of every lane, widened.
    unsafe fn halves_of_f16(words: Self::V) -> [Self::V; 2];

    inlined! {
        /// Transposes LANES values of each of LANES rows: value `j` of row `i` goes to `to[j * to_stride + i]`. Row `i` starts at
        /// `from + min(i, last_row) * stride`, in elements. So there may be fewer than LANES rows: the lanes after the last row
        /// repeat it.
        fn transpose_f32(from: *const f32, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            for (j, column) in Self::columns(from, stride, last_row).into_iter().enumerate() {
                Self::store(to.add(j * to_stride), column);
            }
        }
        /// As [`Simd::transpose_f32`] for 2 * LANES values of each row, widened.
        fn transpose_bf16(from: *const bf16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            for (j, words) in Self::columns(from, stride, last_row).into_iter().enumerate() {
                let [even, odd] = Self::halves_of_bf16(words);
                Self::store(to.add(2 * j * to_stride), even);
                Self::store(to.add((2 * j + 1) * to_stride), odd);
            }
        }
        /// As [`Simd::transpose_f32`] for 2 * LANES values of each row, widened.
        fn transpose_f16(from: *const f16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            for (j, words) in Self::columns(from, stride, last_row).into_iter().enumerate() {
                let [even, odd] = Self::halves_of_f16(words);
                Self::store(to.add(2 * j * to_stride), even);
                Self::store(to.add((2 * j + 1) * to_stride), odd);
            }
        }

        /// `e^x` per lane. From -87.3 to 88.7 the relative error is at most `f32::EPSILON`; beyond, the result is constant
        /// (1.2e-38 and 3.4e38). NaN stays NaN.
        fn exp(x: Self::V) -> Self::V { math::exp::<Self>(x) }
        /// As [`Simd::exp`], but only for `x` that is at most 0 or a rounding error above, e.g. for the weights of a softmax.
        fn exp_nonpositive(x: Self::V) -> Self::V { math::exp_nonpositive::<Self>(x) }
        /// `tanh(x)` per lane, within 5 units in the last place.
        fn tanh(x: Self::V) -> Self::V { math::tanh::<Self>(x) }
        /// `1 / (1 + e^-x)` per lane.
        fn sigmoid(x: Self::V) -> Self::V {
            let one = Self::splat(1.0);
            Self::div(one, Self::add(one, Self::exp(Self::sub(Self::splat(0.0), x))))
        }
    }
}

/// Largest number of lanes of any instruction set.
pub(crate) const MOST_LANES: usize = 16;

/// A number format that vectors are loaded from.
///
/// # Safety
/// For every unsafe function: as [`Simd`].
pub(crate) trait Loaded: Element {
    /// [`Loaded::transpose`] reads `TRANSPOSED * LANES` values from each row.
    const TRANSPOSED: usize;

    /// Widens to f32, exactly.
    fn wide(self) -> f32;
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;
    /// As [`Simd::transpose_f32`], for `TRANSPOSED * LANES` values of each row, widened.
    unsafe fn transpose<S: Simd>(from: *const Self, stride: usize, last_row: usize, to: *mut f32, to_stride: usize);

    inlined! {
        /// As [`Simd::load_partial`].
        fn load_partial<S: Simd>(from: *const Self, n: usize) -> S::V {
            let mut lanes = [Self::zeroed(); MOST_LANES];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            Self::load::<S>(lanes.as_ptr())
        }
        /// Loads the first `lanes <= LANES` lanes. The other lanes are 0.
        fn load_lanes<S: Simd>(from: *const Self, lanes: usize) -> S::V {
            if lanes == S::LANES { Self::load::<S>(from) } else { Self::load_partial::<S>(from, lanes) }
        }
    }
}

/// A number format that vectors can also be stored in.
///
/// # Safety
/// As [`Loaded`].
pub(crate) trait Stored: Loaded {
    /// Rounds to nearest even.
    fn narrow(x: f32) -> Self;
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V);

    inlined! {
        /// As [`Simd::store_partial`].
        fn store_partial<S: Simd>(to: *mut Self, v: S::V, n: usize) {
            let mut lanes = [Self::zeroed(); MOST_LANES];
            Self::store::<S>(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
        /// Stores the first `lanes <= LANES` lanes.
        fn store_lanes<S: Simd>(to: *mut Self, v: S::V, lanes: usize) {
            if lanes == S::LANES { Self::store::<S>(to, v) } else { Self::store_partial::<S>(to, v, lanes) }
        }
    }
}

impl Loaded for f32 {
    const TRANSPOSED: usize = 1;

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    inlined! {
        fn load<S: Simd>(from: *const f32) -> S::V { S::load(from) }
        fn load_partial<S: Simd>(from: *const f32, n: usize) -> S::V { S::load_partial(from, n) }
        fn transpose<S: Simd>(from: *const f32, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            S::transpose_f32(from, stride, last_row, to, to_stride)
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
    inlined! {
        fn store<S: Simd>(to: *mut f32, v: S::V) { S::store(to, v) }
        fn store_partial<S: Simd>(to: *mut f32, v: S::V, n: usize) { S::store_partial(to, v, n) }
    }
}

impl Loaded for bf16 {
    const TRANSPOSED: usize = 2;

    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    inlined! {
        fn load<S: Simd>(from: *const bf16) -> S::V { S::load_bf16(from) }
        fn transpose<S: Simd>(from: *const bf16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            S::transpose_bf16(from, stride, last_row, to, to_stride)
        }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    inlined! {
        fn store<S: Simd>(to: *mut bf16, v: S::V) { S::store_bf16(to, v) }
    }
}

impl Loaded for f16 {
    const TRANSPOSED: usize = 2;

    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    inlined! {
        fn load<S: Simd>(from: *const f16) -> S::V { S::load_f16(from) }
        fn transpose<S: Simd>(from: *const f16, stride: usize, last_row: usize, to: *mut f32, to_stride: usize) {
            S::transpose_f16(from, stride, last_row, to, to_stride)
        }
    }
}

/// Returns the largest number of `z`, ignoring NaN. Returns minus infinity if there is no number.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn largest<S: Simd>(z: &[f32]) -> f32 {
    // SAFETY: the caller guarantees the instruction set of `S`; loads end inside `z`.
    unsafe {
        let whole = z.len() / S::LANES * S::LANES;
        let mut max = S::splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(S::LANES) {
            max = S::max(S::load(z.as_ptr().add(at)), max);
        }
        z[whole..].iter().fold(S::reduce_max(max), |max, &x| if x > max { x } else { max })
    }
}

/// A piece of work whose body is generic over the instruction set. Mark `run` `#[inline(always)]`.
pub(crate) trait VectorTask {
    type Output;
    /// # Safety
    /// The processor has the instruction set of `S`; [`super::Isa::dispatch`] makes sure of it.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

#[cfg(test)]
mod tests;
