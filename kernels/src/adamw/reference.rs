//! Plain version: the definition.

use super::Factors;
use crate::real::Real;

/// Applies one step to every element.
pub(crate) fn step<R: Real>(f: Factors<R>, param: &mut [R], grad: &[R], m: &mut [R], v: &mut [R]) {
    for i in 0..param.len() {
        let g = f.grad_scale * grad[i];
        let p = param[i] * f.decay;
        m[i] = if f.from_end { g - (g - m[i]) * (R::ONE - f.lerp) } else { m[i] + f.lerp * (g - m[i]) };
        v[i] = v[i] * f.beta2 + f.square * g * g;
        let denom = v[i].sqrt() / f.bias_correction2_sqrt + f.eps;
        param[i] = p + f.negative_step_size * m[i] / denom;
    }
}
