//! Plain version: the definition.

use super::Factors;
use crate::real::Real;

/// Takes one step on every element.
pub(crate) fn step<R: Real>(f: Factors<R>, param: &mut [R], grad: &[R], square_avg: &mut [R]) {
    for i in 0..param.len() {
        let g = f.grad_scale * grad[i] + f.weight_decay * param[i];
        square_avg[i] = square_avg[i] * f.alpha + f.square * g * g;
        let denom = square_avg[i].sqrt() + f.eps;
        param[i] += f.negative_step_size * g / denom;
    }
}
