//! Plain version: the definition.

use crate::real::Real;

/// `cap * tanh(x / cap)`
pub(crate) fn softcap<R: Real>(cap: R, x: &[R]) -> Vec<R> {
    x.iter().map(|&x| cap * (x / cap).tanh()).collect()
}
