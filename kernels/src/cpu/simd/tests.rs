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

/// Transposes a block of `rows` rows from the middle of a wider matrix, in all three formats.
struct Transpose<'a> {
    values: &'a [f32],
    cols: usize,
    rows: usize,
}

impl VectorTask for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Transpose { values, cols, rows } = self;
        let bf16s: Vec<_> = values.iter().map(|x| half::bf16::from_f32(*x)).collect();
        let f16s: Vec<_> = values.iter().map(|x| half::f16::from_f32(*x)).collect();
        let (n, first, stride) = (S::LANES, 3, S::LANES + 1);
        let rows = rows.min(n);
        let expected = |depth: usize, row: usize| values[row.min(rows - 1) * cols + first + depth];
        // SAFETY: `rows` rows of `first + 2 * LANES` values are there, and `to` holds 2 * LANES rows of `stride`.
        unsafe {
            for (format, depths) in [("f32", n), ("bf16", 2 * n), ("f16", 2 * n)] {
                let mut to = vec![0.0; 2 * n * stride];
                match format {
                    "f32" => S::transpose_f32(values.as_ptr().add(first), cols, rows - 1, to.as_mut_ptr(), stride),
                    "bf16" => S::transpose_bf16(bf16s.as_ptr().add(first), cols, rows - 1, to.as_mut_ptr(), stride),
                    _ => S::transpose_f16(f16s.as_ptr().add(first), cols, rows - 1, to.as_mut_ptr(), stride),
                }
                for depth in 0..depths {
                    let got = &to[depth * stride..depth * stride + n];
                    let want: Vec<f32> = (0..n).map(|row| expected(depth, row)).collect();
                    assert_eq!(got, want, "{format}, {n} lanes, {rows} rows, depth {depth}");
                }
            }
        }
    }
}

#[test]
fn transposed_blocks_hold_every_value_in_its_place() {
    let cols = 41;
    // whole numbers below 256 are exact in all three formats
    let values: Vec<f32> = (0..16 * cols).map(|i| (i * 37 % 251) as f32).collect();
    for isa in Isa::available() {
        for rows in [1, 3, 16] {
            isa.dispatch(Transpose { values: &values, cols, rows });
        }
    }
}
