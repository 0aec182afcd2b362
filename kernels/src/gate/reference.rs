//! Plain version: the definition.

use super::Activation;
use crate::real::Real;

/// `sqrt(2/pi)`
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044_715;

/// Returns the activation of `x`.
pub(crate) fn act<R: Real>(activation: Activation, x: R) -> R {
    match activation {
        Activation::Silu => x / (R::ONE + (-x).exp()),
        Activation::GeluTanh => {
            let inner = R::from_f64(GELU_SCALE) * (x + R::from_f64(GELU_CUBIC) * x * x * x);
            R::from_f64(0.5) * x * (R::ONE + inner.tanh())
        }
    }
}

/// Returns the derivative of the activation at `x`.
pub(crate) fn act_derivative<R: Real>(activation: Activation, x: R) -> R {
    match activation {
        Activation::Silu => {
            let sigmoid = R::ONE / (R::ONE + (-x).exp());
            sigmoid * (R::ONE + x * (R::ONE - sigmoid))
        }
        Activation::GeluTanh => {
            let inner = R::from_f64(GELU_SCALE) * (x + R::from_f64(GELU_CUBIC) * x * x * x);
            let slope = R::from_f64(GELU_SCALE) * (R::ONE + R::from_f64(3.0 * GELU_CUBIC) * x * x);
            let tanh = inner.tanh();
            R::from_f64(0.5) * (R::ONE + tanh) + R::from_f64(0.5) * x * (R::ONE - tanh * tanh) * slope
        }
    }
}

/// `y = act(gate) * up`
pub(crate) fn forward<R: Real>(activation: Activation, gate: &[R], up: &[R]) -> Vec<R> {
    gate.iter().zip(up).map(|(&gate, &up)| act(activation, gate) * up).collect()
}

/// Returns `d_gate` and `d_up`.
pub(crate) fn backward<R: Real>(activation: Activation, gate: &[R], up: &[R], dy: &[R]) -> (Vec<R>, Vec<R>) {
    let d_gate = (0..gate.len()).map(|i| dy[i] * up[i] * act_derivative(activation, gate[i])).collect();
    let d_up = (0..gate.len()).map(|i| dy[i] * act(activation, gate[i])).collect();
    (d_gate, d_up)
}
