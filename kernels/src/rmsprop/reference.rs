//! Plain version: the definition.

use super::Factors;
use crate::real::Real;

/// One step on every element.
pub(crate) fn step<R: Real>(f: Factors, grad_scale: R, param: &mut [R], grad: &[R], square_avg: &mut [R]) {
    for i in 0..param.len() {
        let g = grad_scale * grad[i] + R::from_f64(f.weight_decay) * param[i];
        square_avg[i] = square_avg[i] * R::from_f64(f.alpha) + R::from_f64(f.square) * g * g;
        let denom = square_avg[i].sqrt() + R::from_f64(f.eps);
        param[i] += R::from_f64(f.negative_step_size) * g / denom;
    }
}
