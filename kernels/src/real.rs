//! The numbers that a `reference.rs` is generic over: f64 for the truth, f32 for the naive kernel that sets the tolerance.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// f64 or f32.
pub(crate) trait Real:
    Copy
    + Debug
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;

    /// Converts, and rounds if `Self` is f32.
    fn from_f64(x: f64) -> Self;
    /// Converts exactly.
    fn from_f32(x: f32) -> Self;
    /// Converts exactly.
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;

    /// Returns the larger number, or `self` if either is NaN.
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

macro_rules! real {
    ($t:ident: $($function:ident)*) => {
        impl Real for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const NEG_INFINITY: $t = $t::NEG_INFINITY;

            fn from_f64(x: f64) -> $t {
                x as $t
            }
            fn from_f32(x: f32) -> $t {
                $t::from(x)
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            $(fn $function(self) -> $t {
                $t::$function(self)
            })*
        }
    };
}
real!(f64: exp ln sqrt tanh sin cos);
real!(f32: exp ln sqrt tanh sin cos);

/// Converts values to `R`, which is exact.
pub(crate) fn widen<R: Real>(values: &[f32]) -> Vec<R> {
    values.iter().map(|&x| R::from_f32(x)).collect()
}
