//! Plain version: the definition.

use crate::real::Real;

/// `y[r] = scale * table[ids[r]]`
pub(crate) fn forward<R: Real>(hidden_size: usize, ids: &[u32], table: &[R], scale: R) -> Vec<R> {
    let mut y = Vec::new();
    for &id in ids {
        let row = id as usize * hidden_size;
        y.extend(table[row..row + hidden_size].iter().map(|&x| scale * x));
    }
    y
}
