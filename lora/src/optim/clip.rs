//! Clips gradients by their global norm.

use align_engine::autograd::ParamGrads;
use align_kernels::sum_squares::SumSquares;
use align_kernels::{Device, Result};

/// Computes the L2 norm over the gradients of all parameters, summed in f64 in the order of the parameters.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn global_norm(device: &Device, grads: &ParamGrads) -> Result<f64> {
    let grads: Vec<_> = grads.iter().map(|(_, grad)| grad.view()).collect();
    let squares = SumSquares { xs: &grads }.run(device)?;
    Ok(squares.into_iter().fold(0.0f64, |sum, square| sum + square).sqrt())
}

/// Returns the factor for the gradients: `min(1, max_norm / (norm + 1e-6))`, as torch's `clip_grad_norm_` does.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_gradients_are_scaled() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
