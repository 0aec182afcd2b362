//! Plain version: the definition.

use super::Factors;
use crate::real::Real;

/// One step on every element.
pub(crate) fn step<R: Real>(f: Factors, grad_scale: R, param: &mut [R], grad: &[R], m: &mut [R], v: &mut [R]) {
    for i in 0..param.len() {
        let g = grad_scale * grad[i];
        let p = param[i] * R::from_f64(f.decay);
        // torch's lerp: from the end that is nearer
        m[i] = if f.lerp.abs() < 0.5 {
            m[i] + R::from_f64(f.lerp) * (g - m[i])
        } else {
            g - (g - m[i]) * (R::ONE - R::from_f64(f.lerp))
        };
        v[i] = v[i] * R::from_f64(f.beta2) + R::from_f64(f.square) * g * g;
        let denom = v[i].sqrt() / R::from_f64(f.bias_correction2_sqrt) + R::from_f64(f.eps);
        param[i] = p + R::from_f64(f.negative_step_size) * m[i] / denom;
    }
}
