//! f64 scalars on a small reverse-mode tape. The losses are written with these scalars, so no derivative of a loss is written by
//! hand.
//!
//! A loss head works on a few hundred per-sequence numbers. Each op computes its value at once and records, for every argument,
//! the partial derivative with respect to it (an *edge*); [`ScalarTape::backward`] then walks the nodes from last to first.
//!
//! ```
//! use align_engine::autograd::scalar::ScalarTape;
//! let tape = ScalarTape::new();
//! let x = tape.leaf(3.0);
//! let loss = (2.0 * x - 1.0).square();
//! assert_eq!(loss.value(), 25.0);
//! assert_eq!(tape.backward(loss).of(x), 20.0);
//! ```
//!
//! Numerics: every op of one or two arguments computes its derivatives to full relative precision over the whole range of f64,
//! tails included. For example, `softplus` does not turn linear at a threshold. A NaN argument stays NaN: neither `max` nor
//! `relu` hides it.

use std::cell::RefCell;
use std::f64::consts::LN_2;
use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Owns the nodes of one loss. Make one for each evaluation of a loss, and drop it afterwards.
#[derive(Default)]
pub struct ScalarTape {
    graph: RefCell<Graph>,
}

/// Node `i` has the edges `edges[ends[i - 1]..ends[i]]`, and node 0 has `edges[..ends[0]]`. Arguments always have a smaller index
/// than the node.
#[derive(Default)]
struct Graph {
    ends: Vec<usize>,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy)]
struct Edge {
    argument: usize,
    partial: f64,
}

/// A value on a [`ScalarTape`]. It is a cheap handle that can be copied freely.
#[derive(Clone, Copy)]
pub struct Scalar<'t> {
    tape: &'t ScalarTape,
    node: usize,
    value: f64,
}

/// The derivatives of one scalar with respect to every node before it. [`ScalarTape::backward`] computes them.
pub struct ScalarGrads {
    adjoints: Vec<f64>,
}

impl ScalarTape {
    /// Makes an empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a value without arguments: an input or a constant.
    pub fn leaf(&self, value: f64) -> Scalar<'_> {
        self.record(value, [])
    }

    /// Returns the derivatives of `root` with respect to every node it depends on.
    pub fn backward(&self, root: Scalar<'_>) -> ScalarGrads {
        root.assert_on(self);
        let graph = self.graph.borrow();
        let mut adjoints = vec![0.0; graph.ends.len()];
        adjoints[root.node] = 1.0;
        for node in (0..=root.node).rev() {
            let adjoint = adjoints[node];
            // this also avoids 0 * inf = NaN if a branch that the root does not use has an infinite partial
            if adjoint == 0.0 {
                continue;
            }
            let start = if node == 0 { 0 } else { graph.ends[node - 1] };
            for edge in &graph.edges[start..graph.ends[node]] {
                adjoints[edge.argument] += adjoint * edge.partial;
            }
        }
        ScalarGrads { adjoints }
    }

    fn record(&self, value: f64, edges: impl IntoIterator<Item = Edge>) -> Scalar<'_> {
        let mut graph = self.graph.borrow_mut();
        let node = graph.ends.len();
        graph.edges.extend(edges);
        let end = graph.edges.len();
        graph.ends.push(end);
        Scalar { tape: self, node, value }
    }

    /// Records a node with the same partial derivative with respect to each of `items`.
    fn reduce<'t>(&'t self, items: &[Scalar<'t>], value: f64, partial: f64) -> Scalar<'t> {
        items.iter().for_each(|item| item.assert_on(self));
        self.record(value, items.iter().map(|item| Edge { argument: item.node, partial }))
    }
}

impl ScalarGrads {
    /// Returns the derivative with respect to `scalar`; 0 if the root does not depend on it.
    pub fn of(&self, scalar: Scalar<'_>) -> f64 {
        self.adjoints.get(scalar.node).copied().unwrap_or(0.0)
    }
}

/// `1 / (1 + e^-x)` without overflow on either side.
fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Makes a method of [`Scalar`] and a row of `UNARY_OPS` from each line:
/// `name: value at x, derivative at x if the value is y;`.
macro_rules! unary_ops {
    ($($(#[$doc:meta])* $name:ident: $value:expr, $derivative:expr;)*) => {
        impl Scalar<'_> {
            $($(#[$doc])* pub fn $name(self) -> Self {
                self.unary($value, $derivative)
            })*
        }

        /// Every op of one argument, for the tests to walk.
        #[cfg(test)]
        const UNARY_OPS: &[(&str, UnaryOp)] = &[$((stringify!($name), |x| x.$name()),)*];
    };
}

#[cfg(test)]
type UnaryOp = for<'t> fn(Scalar<'t>) -> Scalar<'t>;

unary_ops! {
    /// `e^x`; infinite above about x = 709.78.
    exp: |x| x.exp(), |_, y| y;

    /// `e^x - 1`, to full precision near 0.
    exp_m1: |x| x.exp_m1(), |x, _| x.exp();

    /// `ln(1 - e^x)` for x below 0.
    log1m_exp: |x| if x > -LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }, |x, _| x.exp() / x.exp_m1();

    /// Natural logarithm; NaN below 0.
    ln: |x| x.ln(), |x, _| 1.0 / x;

    /// `x^2`.
    square: |x| x * x, |x, _| 2.0 * x;

    /// `max(0, x)` with derivative 0 at 0, as in PyTorch.
    relu: |x| if x <= 0.0 { 0.0 } else { x }, |x, _| if x <= 0.0 { 0.0 } else { 1.0 };

    /// `1 / (1 + e^-x)`. For its logarithm use [`Scalar::log_sigmoid`], for `1 - sigmoid(x)` use `(-x).sigmoid()`.
    sigmoid: logistic, |x, _| logistic(x) * logistic(-x);

    /// `ln(sigmoid(x)) = min(0, x) - log1p(e^-|x|)`. Far below 0 it is about `x`, far above 0 about `-e^-x`.
    log_sigmoid: |x| -log1p_exp(-x), |x, _| logistic(-x);

    /// `ln(1 + e^x) = -log_sigmoid(-x)`, without the threshold above which other implementations return `x`.
    #[doc(alias = "log1p_exp")]
    softplus: log1p_exp, |x, _| logistic(x);
}

/// `ln(1 + e^x) = max(0, x) + log1p(e^-|x|)`.
fn log1p_exp(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl<'t> Scalar<'t> {
    /// Returns the tape of this scalar, to put constants on the same tape.
    pub fn tape(self) -> &'t ScalarTape {
        self.tape
    }

    /// Returns the number.
    pub fn value(self) -> f64 {
        self.value
    }

    /// Returns the same value as a constant: no gradient flows through it.
    pub fn detach(self) -> Self {
        self.tape.leaf(self.value)
    }

    /// Returns the larger of the two numbers, which alone gets the gradient. In a tie, `other` gets it, so that `x.max(0)` is
    /// [`Scalar::relu`].
    pub fn max(self, other: Self) -> Self {
        let (larger, to_self, to_other) = if self.value > other.value {
            (self.value, 1.0, 0.0)
        } else if other.value >= self.value {
            (other.value, 0.0, 1.0)
        } else {
            (f64::NAN, f64::NAN, f64::NAN)
        };
        self.binary(other, larger, to_self, to_other)
    }

    /// `min(x, limit)`. The derivative is 1 up to the limit and at it, and 0 beyond.
    pub fn clamp_max(self, limit: f64) -> Self {
        self.clip(f64::NEG_INFINITY, limit)
    }

    /// `x` limited to `low..=high`. The derivative is 1 inside and at both ends, and 0 outside.
    pub fn clip(self, low: f64, high: f64) -> Self {
        let (value, partial) = match self.value {
            x if x > high => (high, 0.0),
            x if x < low => (low, 0.0),
            x => (x, 1.0),
        };
        self.tape.record(value, [Edge { argument: self.node, partial }])
    }

    /// `ln Σ e^x` over `items`. The derivatives are the softmax of `items`.
    ///
    /// # Panics
    /// If `items` is empty.
    pub fn log_sum_exp(items: &[Self]) -> Self {
        let tape = items.first().expect("a sum needs at least one scalar").tape;
        let largest = items.iter().map(|item| item.value).fold(f64::NEG_INFINITY, |a, b| if b <= a { a } else { b });
        let value = largest + items.iter().map(|item| (item.value - largest).exp()).sum::<f64>().ln();
        items.iter().for_each(|item| item.assert_on(tape));
        tape.record(value, items.iter().map(|item| Edge { argument: item.node, partial: (item.value - value).exp() }))
    }

    /// The sum of `items`, added in order.
    ///
    /// # Panics
    /// If `items` is empty: there is no tape to put the result on.
    pub fn sum(items: &[Self]) -> Self {
        let tape = items.first().expect("a sum needs at least one scalar").tape;
        tape.reduce(items, items.iter().map(|item| item.value).sum(), 1.0)
    }

    /// The mean of `items`. The mean of any number of equal values is that value, bit for bit.
    ///
    /// # Panics
    /// If `items` is empty.
    pub fn mean(items: &[Self]) -> Self {
        let first = items.first().expect("a mean needs at least one scalar");
        let n = items.len() as f64;
        // sums the deviations from the first, because n * x / n is not always x
        let deviations: f64 = items.iter().map(|item| item.value - first.value).sum();
        first.tape.reduce(items, first.value + deviations / n, 1.0 / n)
    }

    fn unary(self, value: fn(f64) -> f64, derivative: fn(f64, f64) -> f64) -> Self {
        let y = value(self.value);
        self.tape.record(y, [Edge { argument: self.node, partial: derivative(self.value, y) }])
    }

    fn binary(self, other: Self, value: f64, to_self: f64, to_other: f64) -> Self {
        other.assert_on(self.tape);
        let edges = [(self, to_self), (other, to_other)];
        self.tape.record(value, edges.map(|(scalar, partial)| Edge { argument: scalar.node, partial }))
    }

    fn assert_on(self, tape: &ScalarTape) {
        assert!(std::ptr::eq(self.tape, tape), "scalars of two tapes were mixed");
    }
}

impl fmt::Debug for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scalar({})", self.value)
    }
}

impl Neg for Scalar<'_> {
    type Output = Self;
    fn neg(self) -> Self {
        self.tape.record(-self.value, [Edge { argument: self.node, partial: -1.0 }])
    }
}

/// Implements an operator between two scalars, and between a scalar and a constant on either side, from a line
/// `Trait::method: a op b, derivative by a, derivative by b`.
macro_rules! operator {
    ($trait:ident::$method:ident: |$a:ident, $b:ident| $value:expr, $by_a:expr, $by_b:expr) => {
        impl $trait for Scalar<'_> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                let ($a, $b) = (self.value, other.value);
                self.binary(other, $value, $by_a, $by_b)
            }
        }
        impl $trait<f64> for Scalar<'_> {
            type Output = Self;
            fn $method(self, $b: f64) -> Self {
                let $a = self.value;
                self.tape.record($value, [Edge { argument: self.node, partial: $by_a }])
            }
        }
        impl<'t> $trait<Scalar<'t>> for f64 {
            type Output = Scalar<'t>;
            fn $method(self, other: Scalar<'t>) -> Scalar<'t> {
                let ($a, $b) = (self, other.value);
                other.tape.record($value, [Edge { argument: other.node, partial: $by_b }])
            }
        }
    };
}

operator!(Add::add: |a, b| a + b, 1.0, 1.0);
operator!(Sub::sub: |a, b| a - b, 1.0, -1.0);
operator!(Mul::mul: |a, b| a * b, b, a);
operator!(Div::div: |a, b| a / b, 1.0 / b, -(a / b) / b);

#[cfg(test)]
mod tests {
    use super::*;

    /// An op under test, as a function of its arguments.
    type Op = Box<dyn for<'t> Fn(&[Scalar<'t>]) -> Scalar<'t>>;

    fn op(f: impl for<'t> Fn(&[Scalar<'t>]) -> Scalar<'t> + 'static) -> Op {
        Box::new(f)
    }

    /// Every op that carries a gradient, with its number of arguments.
    fn ops() -> Vec<(&'static str, usize, Op)> {
        let mut ops: Vec<(&str, usize, Op)> =
            UNARY_OPS.iter().map(|&(name, f)| (name, 1, op(move |x| f(x[0])))).collect();
        ops.extend([
            ("neg", 1, op(|x| -x[0])),
            ("add", 2, op(|x| x[0] + x[1])),
            ("sub", 2, op(|x| x[0] - x[1])),
            ("mul", 2, op(|x| x[0] * x[1])),
            ("div", 2, op(|x| x[0] / x[1])),
            ("scalar + f64", 1, op(|x| x[0] + 1.5)),
            ("f64 + scalar", 1, op(|x| 1.5 + x[0])),
            ("scalar - f64", 1, op(|x| x[0] - 1.5)),
            ("f64 - scalar", 1, op(|x| 1.5 - x[0])),
            ("scalar * f64", 1, op(|x| x[0] * -1.5)),
            ("f64 * scalar", 1, op(|x| -1.5 * x[0])),
            ("scalar / f64", 1, op(|x| x[0] / -1.5)),
            ("f64 / scalar", 1, op(|x| -1.5 / x[0])),
            ("max", 2, op(|x| x[0].max(x[1]))),
            ("clamp_max", 1, op(|x| x[0].clamp_max(0.7))),
            ("clip", 1, op(|x| x[0].clip(-2.0, 0.7))),
            ("log_sum_exp", 3, op(|x| Scalar::log_sum_exp(&[x[0], x[1], x[2]]))),
            ("sum", 3, op(|x| Scalar::sum(&[x[0], x[1], x[2]]))),
            ("mean", 3, op(|x| Scalar::mean(&[x[0], x[1], x[2]]))),
            ("one argument twice", 1, op(|x| x[0] * x[0].sigmoid() + x[0])),
        ]);
        ops
    }

    /// Rows of three arguments, away from the kinks of relu, max, clamp_max and clip. An op with fewer arguments uses the first
    /// numbers of a row.
    const AT: [[f64; 3]; 9] = [
        [0.3, 1.2, -0.7],
        [-0.3, 0.9, 2.0],
        [2.5, -1.5, 0.1],
        [-2.5, -3.0, 0.2],
        [19.9, 7.0, 1.0],
        [20.1, 7.0, 1.0],
        [-20.1, 3.0, 1.0],
        [-50.0, 60.0, -70.0],
        [50.0, -60.0, 70.0],
    ];

    /// Whether an op has no value at `x`, its first argument.
    fn is_outside(name: &str, x: f64) -> bool {
        name == "ln" && x < 0.0 || name == "log1m_exp" && x >= 0.0
    }

    fn evaluate(op: &Op, x: &[f64]) -> (f64, Vec<f64>) {
        let tape = ScalarTape::new();
        let leaves: Vec<_> = x.iter().map(|&v| tape.leaf(v)).collect();
        let y = op(&leaves);
        let grads = tape.backward(y);
        (y.value(), leaves.iter().map(|&leaf| grads.of(leaf)).collect())
    }

    #[test]
    fn every_op_agrees_with_central_differences() {
        for (name, arity, op) in ops() {
            for x in AT {
                let x = &x[..arity];
                let (y, dx) = evaluate(&op, x);
                if y.is_nan() {
                    assert!(is_outside(name, x[0]), "{name}({x:?}) is NaN");
                    continue;
                }
                for (i, &analytic) in dx.iter().enumerate() {
                    let h = 1e-5;
                    let moved = |by: f64| {
                        let mut x = x.to_vec();
                        x[i] += by;
                        evaluate(&op, &x).0
                    };
                    let (above, below) = (moved(h), moved(-h));
                    let numeric = (above - below) / (2.0 * h);
                    // Truncation error: h^2 / 6 times the third derivative. It is largest for 1 / x, where it is (h / x)^2
                    // relative to the derivative, and |x| >= 0.1 here. Rounding error: an ulp of the values and of x, divided by
                    // the step.
                    let largest = above.abs().max(below.abs()).max(x[i].abs());
                    let bound = (h / 0.1).powi(2) * analytic.abs() + 4.0 * f64::EPSILON * largest / h;
                    assert!(
                        (analytic - numeric).abs() <= bound,
                        "d {name}({x:?}) / d x[{i}]: tape {analytic:e}, differences {numeric:e}, bound {bound:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_op_gives_nan_at_the_extremes() {
        for (name, arity, op) in ops() {
            for size in [1e3, 1e4, 1e6] {
                for signs in [[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]] {
                    if is_outside(name, signs[0]) {
                        continue;
                    }
                    let x: Vec<f64> = signs[..arity].iter().map(|sign| sign * size).collect();
                    let (y, dx) = evaluate(&op, &x);
                    assert!(!y.is_nan() && dx.iter().all(|d| !d.is_nan()), "{name}({x:?}) = {y}, d {dx:?}");
                }
            }
        }
    }

    /// In the tails, a form that goes through `1 - sigmoid` or `ln(sigmoid)` loses digits. Beyond about x = 37 it loses all of
    /// them.
    #[test]
    fn tails_keep_their_relative_precision() {
        fn derivative(f: UnaryOp, x: f64) -> f64 {
            evaluate(&op(move |args| f(args[0])), &[x]).1[0]
        }
        for x in [20.0, 30.0, 50.0, 300.0, 700.0] {
            let tail = f64::exp(-x); // the next term of each series is tail^2: below an ulp from x = 37, 2e-9 relative at 20
            let bound = tail * (2.0 * tail + 4.0 * f64::EPSILON);
            let tape = ScalarTape::new();
            for (name, found, expected) in [
                ("log_sigmoid(x)", tape.leaf(x).log_sigmoid().value(), -tail),
                ("softplus(-x)", tape.leaf(-x).softplus().value(), tail),
                ("sigmoid(-x)", tape.leaf(-x).sigmoid().value(), tail),
                ("log_sigmoid'(x)", derivative(|x| x.log_sigmoid(), x), tail),
                ("softplus'(-x)", derivative(|x| x.softplus(), -x), tail),
                ("sigmoid'(x)", derivative(|x| x.sigmoid(), x), tail),
                ("sigmoid'(-x)", derivative(|x| x.sigmoid(), -x), tail),
            ] {
                assert!((found - expected).abs() <= bound, "{name} at {x}: {found:e}, expected {expected:e}");
            }
        }
        assert_eq!(derivative(|x| x.softplus(), 1e6), 1.0);
        assert_eq!(derivative(|x| x.log_sigmoid(), -1e6), 1.0);
        assert_eq!(derivative(|x| x.log_sigmoid(), 1e6), 0.0);
    }

    #[test]
    fn kinks_follow_the_stated_convention() {
        assert_eq!(evaluate(&op(|x| x[0].relu()), &[0.0]), (0.0, vec![0.0]));
        assert_eq!(evaluate(&op(|x| x[0].max(x[1])), &[2.0, 2.0]), (2.0, vec![0.0, 1.0]));
        assert_eq!(evaluate(&op(|x| x[0].clamp_max(2.0)), &[2.0]), (2.0, vec![1.0]));
        assert_eq!(evaluate(&op(|x| x[0].clamp_max(2.0)), &[2.5]), (2.0, vec![0.0]));
    }

    #[test]
    fn nan_is_never_swallowed() {
        for (name, arity, op) in ops() {
            let mut x = vec![1.0; arity];
            x[arity - 1] = f64::NAN;
            assert!(evaluate(&op, &x).0.is_nan(), "{name}");
        }
    }

    #[test]
    fn detach_stops_the_gradient() {
        assert_eq!(evaluate(&op(|x| x[0].detach() * x[0]), &[3.0]), (9.0, vec![3.0]));
    }

    #[test]
    fn an_unused_infinite_partial_does_not_reach_the_result() {
        let (_, dx) = evaluate(&op(|x| x[0].ln().max(x[0])), &[0.0]);
        assert_eq!(dx, [1.0]);
    }

    #[test]
    fn softplus_of_zero_and_the_mean_of_equals_are_exact() {
        let tape = ScalarTape::new();
        for n in 1..200 {
            let items = vec![tape.leaf(-0.0).softplus(); n];
            assert_eq!(Scalar::mean(&items).value().to_bits(), std::f64::consts::LN_2.to_bits(), "{n} items");
        }
    }
}
