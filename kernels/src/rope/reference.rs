//! Plain version: the definition.

use super::Direction;
use crate::real::Real;

/// Returns `cos` and `sin` of every row. By definition the angle is a product in f32. Everything else is in `R`.
pub(crate) fn tables<R: Real>(
    half: usize,
    positions: &[u32],
    variants: &[u32],
    inv_freq: &[R],
    scaling: &[R],
) -> (Vec<R>, Vec<R>) {
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for (&position, &variant) in positions.iter().zip(variants) {
        let scaling = scaling[variant as usize];
        for &inv_freq in &inv_freq[variant as usize * half..][..half] {
            let angle = R::from_f32(position as f32 * inv_freq.to_f64() as f32);
            cos.push(scaling * angle.cos());
            sin.push(scaling * angle.sin());
        }
    }
    (cos, sin)
}

/// Rotates `x` `[rows, heads * head_dim]` in place; `cos` and `sin` are `[rows, rotary_dim / 2]`.
pub(crate) fn rotate<R: Real>(
    [heads, head_dim, rotary_dim]: [usize; 3],
    direction: Direction,
    cos: &[R],
    sin: &[R],
    x: &mut [R],
) {
    let half = rotary_dim / 2;
    for (r, row) in x.chunks_mut(heads * head_dim).enumerate() {
        for head in row.chunks_mut(head_dim) {
            for i in 0..half {
                let cos = cos[r * half + i];
                let sin = match direction {
                    Direction::Forward => sin[r * half + i],
                    Direction::Backward => -sin[r * half + i],
                };
                let (a, b) = (head[i], head[half + i]);
                head[i] = a * cos - b * sin;
                head[half + i] = b * cos + a * sin;
            }
        }
    }
}
