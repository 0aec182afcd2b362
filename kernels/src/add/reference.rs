//! Plain version: the definition.

use crate::real::Real;

/// `y += x`
pub fn add<R: Real>(x: &[R], y: &mut [R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y[r, c] += bias[c]`
pub fn add_bias<R: Real>(bias: &[R], y: &mut [R]) {
    for row in y.chunks_mut(bias.len()) {
        add(bias, row);
    }
}
