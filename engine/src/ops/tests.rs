//! Compares every op's backward pass with central differences of its forward pass.
//!
//! The objective is `Σ c∘y` with random `c`, summed in f64. With the step `h = 2^-6`, rounding of f32 outputs moves the
//! difference quotient by about `|y| * 2^-24 / h = 4e-6 |y|` per term, and the third derivative moves it by `h²/6 = 4e-5` times
//! its size. The relative tolerance of 2e-3 is far above both, and far below the error that a wrong term would cause.

use super::*;
use crate::adapters::{AdapterSet, Adapters, LinearId, LowRank};
use crate::autograd::{Mode, ParamGrads, Tape, Var, recompute};
use crate::param::*;
use crate::pass::{Dropout, Masks, Pass, RopeTable, RopeVariant};
use crate::rows::{RowPlan, SequenceTree};
use crate::weights::{Frozen, FrozenVector};
use align_kernels::attention::Geometry;
use align_kernels::case::Inputs;
use align_kernels::device::WeightBuffer;
use align_kernels::gate::Activation;
use align_kernels::{Device, Precision, Result};
use std::rc::Rc;
use std::sync::Arc;

const H: f32 = 1.0 / 64.0;
const TOLERANCE: f64 = 2e-3;

/// Makes a plan with policy rows 0..6 (a prompt of 3, answers of 2 and 1) and reference rows 6..9. Only the policy rows may
/// contribute to a gradient.
fn plan() -> RowPlan {
    RowPlan {
        policy: 6,
        detached: 0,
        reference: 3,
        trees: vec![
            SequenceTree { prompt: 0..3, branches: vec![3..5, 5..6] },
            SequenceTree { prompt: 6..8, branches: std::iter::once(8..9).collect() },
        ],
    }
}

const ROWS: usize = 9;

/// Two query heads of width 4 that share one key-value head. The window is shorter than the longest sequence, and the soft-cap is
/// low enough to bend the scores.
const GEOMETRY: Geometry = Geometry {
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 4,
    scale: 0.6,
    softcap: Some(2.0),
    sliding_window: Some(4),
};

/// The constants that the ops read.
struct World {
    device: Device,
    square: Frozen,
    head: Frozen,
    norm: FrozenVector,
    head_norm: FrozenVector,
    other_head_norm: FrozenVector,
    rope: Rc<RopeTable>,
    adapter: Arc<AdapterSet>,
    scored: ScoredTokens,
    score_head: Param,
}

impl World {
    fn new() -> World {
        let device = Device::cpu(Some(2)).unwrap();
        let mut inputs = Inputs::of(&[1]);
        let mut frozen = |name: &str, shape: [usize; 2]| {
            let values = inputs.normal(shape[0] * shape[1], 0.5);
            Frozen::new(name, shape, WeightBuffer::F32(device.upload("test", &values).unwrap()))
        };
        let (square, head) = (frozen("square", [8, 8]), frozen("head", [11, 8]));
        let vector = |len, seed| FrozenVector::new(&device, "norm", &Inputs::of(&[seed]).normal(len, 1.0)).unwrap();
        let positions = plan().positions();
        let angles = RopeVariant { inv_freq: vec![1.0, 0.3], scaling: 1.1 };
        let rope = RopeTable::new(&device, &positions, &[0; ROWS], &[angles]).unwrap();
        let mut set = AdapterSet::new(2);
        let param = |id, shape: [usize; 2]| {
            Param::new(&device, ParamId(id), shape, &Inputs::of(&[7, id]).normal(shape[0] * shape[1], 0.5)).unwrap()
        };
        set.insert(LinearId(0), LowRank { lora_a: param(0, [3, 8]), lora_b: param(1, [8, 3]), scaling: 1.5 });
        let scored = ScoredTokens {
            rows: Rc::new(device.upload_indices("test", &[2, 3, 2, 7]).unwrap()),
            targets: Rc::new(device.upload_indices("test", &[10, 0, 4, 4]).unwrap()),
            policy: 3,
        };
        let score_head = param(2, [1, 8]);
        let (norm, head_norm, other_head_norm) = (vector(8, 2), vector(4, 3), vector(4, 4));
        World {
            square,
            head,
            norm,
            head_norm,
            other_head_norm,
            rope: Rc::new(rope),
            adapter: Arc::new(set),
            scored,
            score_head,
            device,
        }
    }

    fn pass(&self, dropout: Option<f32>) -> Rc<Pass> {
        let adapters = Adapters { policy: Some(self.adapter.clone()), reference: None };
        let masks = dropout.map(|p| {
            let numbers: Vec<u64> = (0..plan().rows() as u64).map(|row| 7 * row).collect();
            let numbers = Rc::new(self.device.upload("test", &numbers).unwrap());
            Masks { dropout: Dropout { p, seed: 5, step: 3 }, numbers }
        });
        Pass::new(&self.device, plan(), vec![self.rope.clone()], adapters, masks, Precision::F32).unwrap()
    }

    fn linear(&self) -> Linear {
        Linear { id: LinearId(0), weight: self.square.clone(), bias: Some(self.norm.clone()) }
    }

    /// Returns a layer with an update, between two layers without one.
    fn stack(&self) -> [Linear; 3] {
        let plain = Linear { id: LinearId(1), weight: self.square.clone(), bias: None };
        [plain.clone(), self.linear(), plain]
    }
}

type Run = fn(&World, &mut Tape, &[Var]) -> Result<Var>;

/// Each case: name, columns of each input, dropout, the op. `every_op_is_in_the_list` fails if an op in `ops/mod.rs` has no case.
const CASES: &[(&str, &[usize], Option<f32>, Run)] = &[
    ("add", &[8, 8], None, |_, tape, x| add(tape, &x[0], &x[1])),
    ("add to itself", &[8], None, |_, tape, x| add(tape, &x[0], &x[0])),
    ("attention", &[16], None, |_, tape, x| attention(tape, GEOMETRY, &x[0])),
    ("gate silu", &[16], None, |_, tape, x| gate(tape, Activation::Silu, &x[0])),
    ("gate gelu", &[16], None, |_, tape, x| gate(tape, Activation::GeluTanh, &x[0])),
    ("gather_rows", &[8], None, |w, tape, x| gather_rows(tape, &x[0], &w.scored.rows, w.scored.policy)),
    ("head_norm", &[16], None, |w, tape, x| {
        head_norm(tape, GEOMETRY, &x[0], &[w.head_norm.clone(), w.other_head_norm.clone()], 1e-3, 1.0)
    }),
    ("linear", &[8], None, |w, tape, x| linear(tape, &x[0], &[w.linear()], None)),
    ("linear with dropout", &[8], Some(0.4), |w, tape, x| linear(tape, &x[0], &[w.linear()], None)),
    ("linear stack", &[8], None, |w, tape, x| linear(tape, &x[0], &w.stack(), None)),
    ("linear stack with dropout", &[8], Some(0.4), |w, tape, x| linear(tape, &x[0], &w.stack(), None)),
    ("linear on a residual", &[8, 8], None, |w, tape, x| linear(tape, &x[0], &[w.linear()], Some(&x[1]))),
    ("linear on its input", &[8], None, |w, tape, x| linear(tape, &x[0], &[w.linear()], Some(&x[0]))),
    ("rms_norm", &[8], None, |w, tape, x| rms_norm(tape, &x[0], &w.norm, 1e-3, 0.0)),
    ("rope", &[8], None, |w, tape, x| rope(tape, x[0].clone(), [1, 8], &w.rope)),
    ("rope of heads and what follows", &[16], None, |w, tape, x| rope(tape, x[0].clone(), [3, 4], &w.rope)),
    ("score_head", &[8], None, |w, tape, x| {
        let rows = gather_rows(tape, &x[0], &w.scored.rows, w.scored.policy)?;
        score_head(tape, &rows, &w.score_head)
    }),
    ("token_logps", &[8], None, |w, tape, x| {
        let rows = gather_rows(tape, &x[0], &w.scored.rows, w.scored.policy)?;
        Ok(token_logps(tape, &rows, &w.head, &w.scored, Some(3.0), 0.8, false)?.logps)
    }),
    ("recompute", &[8], None, |w, tape, x| {
        let (projection, norm) = (w.linear(), w.norm.clone());
        let layer = move |tape: &mut Tape, x: &Var| {
            let h = rms_norm(tape, x, &norm, 1e-3, 0.0)?;
            linear(tape, &h, std::slice::from_ref(&projection), Some(x))
        };
        recompute(tape, &x[0], Rc::new(layer))
    }),
];

/// Runs an op. Returns `Σ c∘y` over the rows with a gradient, the tape, the inputs on the tape, and the output `y`.
fn forward(w: &World, dropout: Option<f32>, run: Run, x: &[Vec<f32>], c: &[f32]) -> (f64, Tape, Vec<Var>, Var) {
    let mut tape = Tape::new(&w.device, w.pass(dropout), Mode::Record);
    let leaves: Vec<Var> = x
        .iter()
        .map(|values| tape.leaf(ROWS, values.len() / ROWS, 6, w.device.upload("test", values).unwrap()))
        .collect();
    let y = run(w, &mut tape, &leaves).unwrap();
    let with_gradient = y.view().download().unwrap()[..y.grad_rows() * y.cols()].to_vec();
    let sum = with_gradient.iter().zip(c).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum();
    (sum, tape, leaves, y)
}

#[test]
fn every_op_has_the_gradient_of_its_forward() {
    let w = World::new();
    for &(name, columns, dropout, run) in CASES {
        let mut inputs = Inputs::of(&[columns.len(), name.len()]);
        let x: Vec<Vec<f32>> = columns.iter().map(|cols| inputs.normal(ROWS * cols, 1.0)).collect();
        let c = inputs.normal(ROWS * 24, 1.0);
        let (_, tape, leaves, y) = forward(&w, dropout, run, &x, &c);
        let dy = w.device.upload("test", &c[..y.grad_rows() * y.cols()]).unwrap();
        let mut params = ParamGrads::default();
        let grads = tape.backward_of(&y, dy, &leaves, &mut params).unwrap();

        let compare = |what: String, got: &[f32], difference: &dyn Fn(usize, f32) -> f64| {
            let exact: Vec<f64> =
                (0..got.len()).map(|i| (difference(i, H) - difference(i, -H)) / f64::from(2.0 * H)).collect();
            let largest = exact.iter().fold(1.0f64, |m, g| m.max(g.abs()));
            for (i, (&got, &exact)) in got.iter().zip(&exact).enumerate() {
                let error = (f64::from(got) - exact).abs();
                assert!(error <= TOLERANCE * largest, "{name}: d{what}[{i}] = {got}, difference quotient {exact}");
            }
        };
        for (which, grad) in grads.iter().enumerate() {
            let grad =
                grad.as_ref().unwrap_or_else(|| panic!("{name}: input {which} has no gradient")).download().unwrap();
            compare(format!("x{which}"), &grad, &|i, h| {
                let mut moved = x.clone();
                moved[which][i] += h;
                forward(&w, dropout, run, &moved, &c).0
            });
        }
        for param in w.adapter.params().iter().chain([&w.score_head]) {
            let Some(grad) = params.get(param.id()) else { continue };
            compare(format!("param{}", param.id().0), &grad.download().unwrap(), &|i, h| {
                let before = param.read().download().unwrap();
                let mut moved = before.clone();
                moved[i] += h;
                *param.write() = w.device.upload("test", &moved).unwrap();
                let value = forward(&w, dropout, run, &x, &c).0;
                *param.write() = w.device.upload("test", &before).unwrap();
                value
            });
        }
        let with_params = match name {
            "score_head" => 1,
            "recompute" => 2,
            name if name.starts_with("linear") => 2,
            _ => 0,
        };
        assert_eq!(params.iter().count(), with_params, "{name}: gradients of parameters");
    }
}

#[test]
fn every_op_is_in_the_list() {
    for line in include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("mod ")) {
        let op = line.trim_end_matches(';');
        // `embed` reads a frozen table: there is nothing to differentiate
        let listed = CASES.iter().any(|(name, ..)| name.split(' ').next() == Some(op));
        assert!(listed || ["embed", "tests"].contains(&op), "op `{op}` has no gradient check");
    }
}
