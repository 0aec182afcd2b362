//! Derivatives by finite differences, to check the backward formulas of the references.

/// Returns the gradient of `f` at `x` by central differences in f64. With steps of `1e-5` the error is near `1e-10` for functions
/// whose third derivative is near 1.
pub(crate) fn by_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let (at, step) = (x[i], 1e-5);
            x[i] = at + step;
            let above = f(&x);
            x[i] = at - step;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// `Σ a·b`
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Panics if two gradients differ by more than `1e-8 * (1 + |want|)` in an element. That is a hundred times the error that rounding
/// and the third derivative leave in differences of functions of size 1. A wrong term in a formula would change far more.
pub(crate) fn assert_same(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-8 * (1.0 + want.abs()), "element {i}: {got}, by differences {want}");
    }
}
