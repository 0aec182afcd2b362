//! Tests the vectors of every instruction set: functions against f64, transposes, partial vectors, NaN, and the order of sums.

use super::{Simd, VectorTask};
use crate::cpu::Isa;

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

/// Compares function number `F` with `truth` at 40,001 points of `range`. Allows an error of `ulps * EPSILON` times the value.
/// `EPSILON` times a value is one to two of its units in the last place.
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
fn exp_is_within_one_ulp() {
    check::<0>((-87.0, 88.7), f64::exp, 1.0);
}

#[test]
fn exp_of_nonpositive_values_is_within_one_ulp() {
    check::<4>((-87.0, 0.01), f64::exp, 1.0);
}

#[test]
fn tanh_is_within_five_ulps() {
    check::<1>((-12.0, 12.0), f64::tanh, 5.0);
}

#[test]
fn sigmoid_is_within_two_ulps() {
    check::<2>((-80.0, 80.0), |x| 1.0 / (1.0 + (-x).exp()), 2.0);
}

#[test]
fn bf16_rounding_is_that_of_the_half_crate() {
    check::<3>((-3.0, 3.0), |x| f64::from(half::bf16::from_f32(x as f32).to_f32()), 0.0);
}

/// Transposes a block of `rows` rows from the middle of a wider matrix in all three formats, and checks every value.
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
        // SAFETY: `values` has `rows` rows of at least `first + 2 * LANES` values, and `to` has 2 * LANES rows of `stride`.
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

/// Copies the first `n` values through a vector, but at most as many as it has lanes. Returns how many it copied.
struct CopyLanes<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
    n: usize,
}

impl VectorTask for CopyLanes<'_> {
    type Output = usize;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        let lanes = self.n.min(S::LANES);
        let mut all = [f32::NAN; super::MOST_LANES];
        // SAFETY: both slices hold `lanes` elements, and `all` holds as many as the widest vector has lanes.
        unsafe {
            let v = S::load_partial(self.from.as_ptr(), lanes);
            S::store_partial(self.to.as_mut_ptr(), v, lanes);
            S::store(all.as_mut_ptr(), v);
        }
        assert!(all[lanes..S::LANES].iter().all(|x| x.to_bits() == 0), "lanes from {lanes} on are {all:?}");
        lanes
    }
}

#[test]
fn partial_vectors_touch_their_lanes_alone() {
    let from: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    for isa in Isa::available() {
        for n in 0..=16 {
            let mut to = vec![-1.0; 17];
            let lanes = isa.dispatch(CopyLanes { from: &from, to: &mut to, n });
            assert_eq!(to[..lanes], from[..lanes], "{n} lanes on {}", isa.name());
            assert!(to[lanes..].iter().all(|x| *x == -1.0), "{n} lanes on {}: {to:?}", isa.name());
        }
    }
}

/// Returns `[max(a, b), min(a, b), reduce_max(a)]` of vectors `a` and `b` that hold one number in all lanes.
struct Extremes(f32, f32);

impl VectorTask for Extremes {
    type Output = [f32; 3];
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [f32; 3] {
        // SAFETY: `dispatch` runs this only on a processor with the instruction set; each partial store writes one f32.
        unsafe {
            let (a, b) = (S::splat(self.0), S::splat(self.1));
            let (mut max, mut min) = (0.0, 0.0);
            S::store_partial(&raw mut max, S::max(a, b), 1);
            S::store_partial(&raw mut min, S::min(a, b), 1);
            [max, min, S::reduce_max(a)]
        }
    }
}

#[test]
fn max_and_min_give_the_second_operand_where_one_is_nan() {
    for isa in Isa::available() {
        let name = isa.name();
        assert_eq!(isa.dispatch(Extremes(2.0, -3.0)), [2.0, -3.0, 2.0], "{name}");
        assert_eq!(isa.dispatch(Extremes(-f32::INFINITY, 1.0)), [1.0, -f32::INFINITY, -f32::INFINITY], "{name}");
        assert_eq!(isa.dispatch(Extremes(f32::NAN, 1.0))[..2], [1.0, 1.0], "{name}");
        assert!(isa.dispatch(Extremes(1.0, f32::NAN))[..2].iter().all(|x| x.is_nan()), "{name}");
    }
}

/// Widens f16 values, whole vectors at a time.
struct WidenF16<'a>(&'a [half::f16], &'a mut [f32]);

impl VectorTask for WidenF16<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..self.0.len()).step_by(S::LANES) {
            // SAFETY: the slices are equally long, and their length is a multiple of the lanes.
            unsafe { S::store(self.1.as_mut_ptr().add(at), S::load_f16(self.0.as_ptr().add(at))) };
        }
    }
}

#[test]
fn every_f16_is_widened_exactly() {
    let all: Vec<_> = (0..=u16::MAX).map(half::f16::from_bits).collect();
    for isa in Isa::available() {
        let mut wide = vec![0.0; all.len()];
        isa.dispatch(WidenF16(&all, &mut wide));
        for (narrow, wide) in all.iter().zip(wide) {
            let want = narrow.to_f32();
            assert!(wide.to_bits() == want.to_bits() || wide.is_nan() && want.is_nan(), "{wide} on {}", isa.name());
        }
    }
}

/// Returns the number of lanes, and the sum of that many values from the start of the slice.
struct SumLanes<'a>(&'a [f32]);

impl VectorTask for SumLanes<'_> {
    type Output = (usize, f32);
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (usize, f32) {
        // SAFETY: there are as many values as the widest vector has lanes.
        unsafe { (S::LANES, S::reduce_add(S::load(self.0.as_ptr()))) }
    }
}

#[test]
fn lanes_are_added_by_halves() {
    // every addition of these values is rounded, so the sum depends on the order
    let values: Vec<f32> = (0..16).map(|i| 3.0f32.powi(i) * 1.1).collect();
    for isa in Isa::available() {
        let (lanes, got) = isa.dispatch(SumLanes(&values));
        let mut left = values[..lanes].to_vec();
        while left.len() > 1 {
            let half = left.len() / 2;
            left = (0..half).map(|i| left[i] + left[half + i]).collect();
        }
        assert_eq!(got.to_bits(), left[0].to_bits(), "{}", isa.name());
    }
}
