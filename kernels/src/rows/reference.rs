//! Plain version: the definition.

use crate::real::Real;

/// `y[i] = x[index[i]]`
pub(crate) fn gather<R: Real>(cols: usize, index: &[u32], x: &[R]) -> Vec<R> {
    let mut y = Vec::new();
    for &row in index {
        y.extend_from_slice(&x[row as usize * cols..][..cols]);
    }
    y
}

/// `y[index[i]] = x[i]`
pub(crate) fn scatter<R: Real>(cols: usize, index: &[u32], x: &[R], y: &mut [R]) {
    for (&row, x) in index.iter().zip(x.chunks(cols)) {
        y[row as usize * cols..][..cols].copy_from_slice(x);
    }
}

/// `y[index[i]] += x[i]`, for i in order
pub(crate) fn scatter_add<R: Real>(cols: usize, index: &[u32], x: &[R], y: &mut [R]) {
    for (&row, x) in index.iter().zip(x.chunks(cols)) {
        for (y, &x) in y[row as usize * cols..][..cols].iter_mut().zip(x) {
            *y += x;
        }
    }
}
