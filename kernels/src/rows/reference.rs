//! Plain version: the definition.

use crate::real::Real;

/// `y[i] = x[index[i]]`
pub fn gather<R: Real>(cols: usize, index: &[u32], x: &[R]) -> Vec<R> {
    let mut y = Vec::new();
    for &row in index {
        y.extend_from_slice(&x[row as usize * cols..][..cols]);
    }
    y
}

/// `y[index[i]] = x[i]`
pub fn scatter<R: Real>(cols: usize, index: &[u32], x: &[R], y: &mut [R]) {
    for (&row, x) in index.iter().zip(x.chunks(cols)) {
        y[row as usize * cols..][..cols].copy_from_slice(x);
    }
}

/// `y[index[i]] += x[i]`, for i in order
pub fn scatter_add<R: Real>(cols: usize, index: &[u32], x: &[R], y: &mut [R]) {
    for (&row, x) in index.iter().zip(x.chunks(cols)) {
        for (y, &x) in y[row as usize * cols..][..cols].iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// `y[r] = x[r, first_col .. first_col + y_cols]`
pub fn take_columns<R: Real>(x_cols: usize, first_col: usize, y_cols: usize, x: &[R]) -> Vec<R> {
    x.chunks(x_cols).flat_map(|row| row[first_col..first_col + y_cols].to_vec()).collect()
}

/// `y[r, first_col .. first_col + x_cols] += x[r]`
pub fn add_columns<R: Real>(y_cols: usize, first_col: usize, x_cols: usize, x: &[R], y: &mut [R]) {
    for (y, x) in y.chunks_mut(y_cols).zip(x.chunks(x_cols)) {
        for c in 0..x_cols {
            y[first_col + c] += x[c];
        }
    }
}
