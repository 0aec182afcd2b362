//! Plain version: the definition.

use crate::real::Real;

/// `Σ x²`
pub(crate) fn sum_squares<R: Real>(x: &[R]) -> R {
    x.iter().map(|&x| x * x).sum()
}
