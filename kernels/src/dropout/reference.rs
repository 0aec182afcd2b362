//! Plain version: the definition.

use super::{keep_scale, threshold};
use crate::rng::Key;

/// `y = mask∘x / (1 - p)`. One rounding per element, so f32 is the only type it needs.
pub(crate) fn dropout(cols: usize, p: f32, key: Key, numbers: &[u64], x: &[f32]) -> Vec<f32> {
    let mut y = Vec::new();
    for (&number, x) in numbers.iter().zip(x.chunks(cols)) {
        for (c, &x) in x.iter().enumerate() {
            let word = key.words(number, c as u64 / 4)[c % 4];
            y.push(if word >= threshold(p) { x * keep_scale(p) } else { 0.0 });
        }
    }
    y
}
