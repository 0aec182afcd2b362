//! Plain version: the definition.

use super::Factors;
use crate::real::Real;

/// One step on every element.
pub fn step<R: Real>(f: Factors, grad_scale: R, param: &mut [R], grad: &[R], exp_avg: &mut [R], exp_avg_sq: &mut [R]) {
    for i in 0..param.len() {
        let g = grad_scale * grad[i];
        let p = param[i] * R::from_f64(f.decay);
        // torch's lerp: from the end that is nearer
        exp_avg[i] = if f.lerp.abs() < 0.5 {
            exp_avg[i] + R::from_f64(f.lerp) * (g - exp_avg[i])
        } else {
            g - (g - exp_avg[i]) * (R::ONE - R::from_f64(f.lerp))
        };
        exp_avg_sq[i] = exp_avg_sq[i] * R::from_f64(f.beta2) + R::from_f64(f.square) * g * g;
        let denom = exp_avg_sq[i].sqrt() / R::from_f64(f.bias_correction2_sqrt) + R::from_f64(f.eps);
        param[i] = p + R::from_f64(f.negative_step_size) * exp_avg[i] / denom;
    }
}
