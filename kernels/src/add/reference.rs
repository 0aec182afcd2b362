//! Plain version: the definition.

use crate::real::Real;

/// `y += x`
pub(crate) fn add<R: Real>(x: &[R], y: &mut [R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
