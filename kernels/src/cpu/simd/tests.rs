//! Every instruction set against the f64 functions.

use super::{Isa, Simd, VectorTask};

struct Apply<'a, const F: u8>(&'a [f32], &'a mut [f32]);

impl<const F: u8> VectorTask for Apply<'_, F> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.0.len();
        let mut at = 0;
        while at < n {
            let lanes = S::LANES.min(n - at);
            // SAFETY: `at + lanes <= n`.
            unsafe {
                let x = S::load_partial(self.0.as_ptr().add(at), lanes);
                let y = match F {
                    0 => S::exp(x),
                    1 => S::tanh(x),
                    2 => S::sigmoid(x),
                    4 => S::exp_nonpositive(x),
                    _ => S::round_to_bf16(x),
                };
                S::store_partial(self.1.as_mut_ptr().add(at), y, lanes);
            }
            at += lanes;
        }
    }
}

fn check<const F: u8>(range: (f32, f32), truth: impl Fn(f64) -> f64, ulps: f64) {
    let x: Vec<f32> = (0..40_001).map(|i| range.0 + (range.1 - range.0) * i as f32 / 40_000.0).collect();
    for isa in Isa::available() {
        let mut y = vec![f32::NAN; x.len()];
        isa.dispatch(Apply::<F>(&x, &mut y));
        for (&x, &y) in x.iter().zip(&y) {
            let exact = truth(f64::from(x));
            let ulp = (exact.abs() * f64::from(f32::EPSILON)).max(f64::from(f32::MIN_POSITIVE));
            assert!((f64::from(y) - exact).abs() <= ulps * ulp, "{} f({x}) = {y}, exactly {exact}", isa.name());
        }
    }
}

#[test]
fn exp_is_within_three_ulps() {
    check::<0>((-87.0, 88.7), f64::exp, 3.0);
}

#[test]
fn exp_of_nonpositive_values_is_within_three_ulps() {
    check::<4>((-87.0, 0.01), f64::exp, 3.0);
}

#[test]
fn tanh_is_within_five_ulps() {
    check::<1>((-12.0, 12.0), f64::tanh, 5.0);
}

#[test]
fn sigmoid_is_within_three_ulps() {
    check::<2>((-80.0, 80.0), |x| 1.0 / (1.0 + (-x).exp()), 3.0);
}

#[test]
fn bf16_rounding_is_that_of_the_half_crate() {
    check::<3>((-3.0, 3.0), |x| f64::from(half::bf16::from_f32(x as f32).to_f32()), 0.0);
}
