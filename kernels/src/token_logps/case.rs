//! The timed shapes are the head of SmolLM2-135M over the answers of a batch. The tests also use odd sizes around the edges of the
//! vocabulary's tiles, every format, soft-caps, temperatures and ignored rows.

use super::{BACKWARD_PRODUCTS, Backward, Extras, FORWARD_PRODUCTS, Forward, Head, operations, reference};
use crate::case::{Case, Comparison, Direction, Fixed, Inputs, Prepared, float, half_ulp_of_bf16, weights};
use crate::device::{WeightBuffer, WeightDtype};
use crate::real::{Real, widen};
use crate::{Buffer, Device, FloatBuffer, FloatDtype, IGNORE, Indices, Precision, Result};
use half::bf16;

#[derive(Debug, Clone, Copy)]
struct Shape {
    direction: Direction,
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
    weights: WeightDtype,
    precision: Precision,
    cap: Option<f32>,
    temperature: f32,
    /// The target of every n-th row is [`IGNORE`].
    ignore_every: Option<usize>,
    /// Whether the forward pass computes its [`Extras`] too.
    extras: bool,
    /// Format of the hidden states.
    floats: FloatDtype,
}

pub(crate) fn cases() -> Vec<Case> {
    let smollm2 = Shape {
        direction: Direction::Forward,
        rows: 512,
        hidden_size: 576,
        vocab_size: 49152,
        weights: WeightDtype::Bf16,
        precision: Precision::F32,
        cap: None,
        temperature: 1.0,
        ignore_every: None,
        extras: true,
        floats: FloatDtype::F32,
    };
    let in_bf16 = Shape { precision: Precision::Bf16, extras: false, floats: FloatDtype::Bf16, ..smollm2 };
    let mut cases = Vec::new();
    for direction in [Direction::Forward, Direction::Backward] {
        for rows in [512, 1024] {
            cases.push(Shape { direction, rows, ..smollm2 }.case(true));
        }
        for rows in [512, 1024] {
            cases.push(Shape { direction, rows, ..in_bf16 }.case(true));
        }
        let odd = Shape { direction, cap: Some(3.0), ignore_every: Some(3), ..smollm2 };
        for [rows, hidden_size, vocab_size] in [
            [1, 1, 1],
            [1, 16, 5],
            [2, 31, 511],
            [7, 8, 512],
            [17, 33, 1025],
            [40, 7, 2100],
            [16, 64, 3000],
            [3, 8, 9000],
            [1030, 4, 300],
        ] {
            let odd = Shape { rows, hidden_size, vocab_size, ..odd };
            cases.push(odd.case(false));
            cases.push(Shape { cap: None, ignore_every: None, ..odd }.case(false));
            cases.push(Shape { temperature: 0.8, ..odd }.case(false));
            cases.push(Shape { temperature: 1.25, cap: None, ..odd }.case(false));
            cases.push(Shape { weights: WeightDtype::F32, ..odd }.case(false));
            cases.push(Shape { weights: WeightDtype::F16, precision: Precision::Bf16, ..odd }.case(false));
            let in_bf16 = Shape { direction, rows, hidden_size, vocab_size, ..in_bf16 };
            cases.push(in_bf16.case(false));
            cases.push(Shape { extras: true, ..in_bf16 }.case(false));
            cases.push(Shape { temperature: 0.8, cap: Some(3.0), ..in_bf16 }.case(false));
            cases.push(Shape { temperature: 1.25, ..in_bf16 }.case(false));
            cases.push(Shape { cap: Some(3.0), ignore_every: Some(3), extras: true, ..in_bf16 }.case(false));
            let weights = WeightDtype::F32;
            cases.push(Shape { weights, extras: true, floats: FloatDtype::F32, ..in_bf16 }.case(false));
        }
    }
    cases
}

impl Shape {
    fn case(self, timed: bool) -> Case {
        let Shape { rows, hidden_size, vocab_size, .. } = self;
        let (dtype, element) = match self.weights {
            WeightDtype::F32 => ("f32", 4),
            WeightDtype::F16 => ("f16", 2),
            WeightDtype::Bf16 => ("bf16", 2),
        };
        let product = if self.precision == Precision::Bf16 { ", products of bf16" } else { "" };
        let cap = self.cap.map_or(String::new(), |cap| format!(", soft-cap {cap}"));
        let temperature = match self.temperature {
            1.0 => String::new(),
            temperature => format!(", temperature {temperature}"),
        };
        let floats = if self.floats == FloatDtype::Bf16 { " of bf16" } else { "" };
        let (kernel, products, tensors) = match self.direction {
            Direction::Forward => ("token_logps.forward", FORWARD_PRODUCTS, 1),
            Direction::Backward => ("token_logps.backward", BACKWARD_PRODUCTS, 2),
        };
        let by_definition = Fixed::default();
        Case {
            kernel,
            shape: format!(
                "rows {rows} hidden {hidden_size} vocab {vocab_size} {dtype}{floats}{product}{cap}{temperature}"
            ),
            flops: operations(products, rows, [vocab_size, hidden_size]),
            // the weights once, the hidden states, and in the backward pass their gradient
            bytes: (element * vocab_size * hidden_size + self.floats.bytes() * tensors * rows * hidden_size) as f64,
            precision: Some(self.precision),
            timed,
            prepare: Box::new(move |device| Ok(Box::new(Run::new(self, timed, by_definition.clone(), device)?))),
        }
    }
}

/// The operands of a head, on the device.
struct OnDevice {
    hidden_states: FloatBuffer,
    lm_head: WeightBuffer,
    targets: Indices,
}

impl OnDevice {
    fn head(&self, shape: &Shape) -> Head<'_> {
        let &Shape { rows, hidden_size, vocab_size, cap, temperature, precision, .. } = shape;
        Head {
            rows,
            hidden_size,
            vocab_size,
            hidden_states: self.hidden_states.view(),
            lm_head: self.lm_head.view(),
            targets: self.targets.view(),
            final_logit_softcapping: cap,
            temperature,
            precision,
        }
    }
}

struct Run {
    shape: Shape,
    /// Rows that are compared with the reference, which would take minutes for all rows of a large shape.
    compared: Vec<usize>,
    device: Device,
    hidden: Vec<f32>,
    /// The weights as the kernel reads them: rounded to their format.
    weights: Vec<f32>,
    target_ids: Vec<u32>,
    on_device: OnDevice,
    d_logps: Buffer<f32>,
    /// The log-probs, the log-sum-exps, the entropies, whether the targets have the largest logit, and the log-sum-exps of twice
    /// the logits. Filled with NaN first, so that an element that is not written fails the comparison.
    outputs: [Buffer<f32>; 5],
    /// Filled with NaN first, as `outputs` are.
    d_hidden: FloatBuffer,
    by_definition: Fixed<(ByReference<f64>, ByReference<f32>)>,
}

/// The outputs of the forward pass and `d_hidden`, as the reference computes them.
type ByReference<R> = (reference::Outputs<R>, Vec<R>);

impl Run {
    fn new(
        shape: Shape,
        timed: bool,
        by_definition: Fixed<(ByReference<f64>, ByReference<f32>)>,
        device: &Device,
    ) -> Result<Run> {
        let Shape { rows, hidden_size, vocab_size, .. } = shape;
        let mut inputs = Inputs::of(&[rows, hidden_size, vocab_size]);
        let hidden_states = float(device, shape.floats, &inputs.normal(rows * hidden_size, 1.0))?;
        // logits with a standard deviation of 3: some tokens are likely, most are not
        let scale = 3.0 / (hidden_size as f32).sqrt();
        let lm_head = weights(device, shape.weights, &inputs.normal(vocab_size * hidden_size, scale))?;
        let ignored = |row: usize| shape.ignore_every.is_some_and(|n| row % n == n - 1);
        let target_ids: Vec<u32> =
            (0..rows).map(|row| if ignored(row) { IGNORE } else { inputs.below(vocab_size) as u32 }).collect();
        let targets = device.upload_indices("case", &target_ids)?;
        let unset = || device.upload("case", &vec![f32::NAN; rows]);
        let mut run = Run {
            shape,
            compared: if timed { (0..rows).step_by(rows / 8).collect() } else { (0..rows).collect() },
            device: device.clone(),
            hidden: hidden_states.download().expect("the device works"),
            weights: lm_head.download().expect("the device works"),
            target_ids,
            on_device: OnDevice { hidden_states, lm_head, targets },
            d_logps: device.upload("case", &inputs.normal(rows, 1.0))?,
            outputs: [unset()?, unset()?, unset()?, unset()?, unset()?],
            d_hidden: float(device, shape.floats, &vec![f32::NAN; rows * hidden_size])?,
            by_definition,
        };
        if shape.direction == Direction::Backward {
            run.forward()?;
        }
        Ok(run)
    }

    fn forward(&mut self) -> Result<()> {
        let [logps, lse, entropy, target_is_argmax, lse_of_twice] = self.outputs.each_mut().map(Buffer::view_mut);
        let extras = self.shape.extras.then_some(Extras { entropy, target_is_argmax, lse_of_twice });
        Forward { head: self.on_device.head(&self.shape), logps, lse, extras }.run(&self.device)
    }

    /// Returns the compared rows of a tensor with rows of `width` values.
    fn part<T: Copy>(&self, values: &[T], width: usize) -> Vec<T> {
        self.compared.iter().flat_map(|&row| values[row * width..(row + 1) * width].to_vec()).collect()
    }

    /// Returns the values as the product multiplies them: rounded to bf16 if the precision asks for it.
    fn multiplied<R: Real>(&self, values: &[f32]) -> Vec<R> {
        match self.shape.precision {
            Precision::F32 => widen(values),
            Precision::Bf16 => values.iter().map(|&x| R::from_f32(bf16::from_f32(x).to_f32())).collect(),
        }
    }

    fn reference<R: Real>(&self) -> ByReference<R> {
        let Shape { hidden_size, cap, temperature, .. } = self.shape;
        let logit = reference::Logit { cap, temperature };
        let hidden = self.multiplied::<R>(&self.part(&self.hidden, hidden_size));
        let weights = self.multiplied::<R>(&self.weights);
        let targets = self.part(&self.target_ids, 1);
        let outputs = reference::forward(hidden_size, &hidden, &weights, &targets, logit);
        let d_hidden = match self.shape.direction {
            Direction::Forward => Vec::new(),
            Direction::Backward => {
                let d_logps = widen(&self.part(&self.d_logps.download().expect("the device works"), 1));
                reference::backward(hidden_size, &hidden, &weights, &targets, logit, &outputs.lse, &d_logps)
            }
        };
        (outputs, d_hidden)
    }
}

impl Prepared for Run {
    fn run(&mut self) -> Result<()> {
        match self.shape.direction {
            Direction::Forward => self.forward(),
            Direction::Backward => Backward {
                head: self.on_device.head(&self.shape),
                lse: self.outputs[1].view(),
                d_logps: self.d_logps.view(),
                d_hidden: self.d_hidden.view_mut(),
            }
            .run(&self.device),
        }
    }

    fn check(&self) -> Vec<Comparison> {
        let ((exact, exact_d), (naive, naive_d)) =
            self.by_definition.get_or_init(|| (self.reference(), self.reference()));
        match self.shape.direction {
            Direction::Forward => {
                let got =
                    self.outputs.each_ref().map(|output| self.part(&output.download().expect("the device works"), 1));
                let compare = |name, got: &[f32], exact, naive, functions: f64| {
                    let mut comparison = Comparison::with_naive(name, got, exact, naive);
                    comparison.bound += functions;
                    comparison
                };
                // The vector exp errs by a relative EPSILON, which moves the log of a sum by as much. The vector tanh errs by 5
                // EPSILON of its own value, which is at most 1. That moves a logit by 5 EPSILON of `cap`, divided by the
                // temperature. The naive version uses the functions of the standard library instead.
                let temperature = f64::from(self.shape.temperature);
                let logit = f64::from(f32::EPSILON) * 5.0 * f64::from(self.shape.cap.unwrap_or(0.0)) / temperature;
                let lse = f64::from(f32::EPSILON) + logit;
                // dH = -Σ p (log p + H) δ for errors δ of the logits, and the sum of p |log p + H| is at most 2 H
                let entropy = 2.0 * exact.entropy.iter().fold(0.0f64, |max, &x| max.max(x)) * lse;
                let mut comparisons = vec![
                    compare("logps", &got[0], &exact.logps, &naive.logps, lse + logit),
                    compare("lse", &got[1], &exact.lse, &naive.lse, lse),
                ];
                if self.shape.extras {
                    comparisons.extend([
                        compare("entropy", &got[2], &exact.entropy, &naive.entropy, entropy),
                        compare("lse_of_twice", &got[4], &exact.lse_of_twice, &naive.lse_of_twice, 2.0 * lse),
                        // 1 or 0, compared exactly: the random logits differ by more than rounding can change
                        Comparison::with_bound("target_is_argmax", &got[3], &exact.target_is_argmax, 0.0),
                    ]);
                }
                comparisons
            }
            Direction::Backward => {
                let got = self.part(&self.d_hidden.download().expect("the device works"), self.shape.hidden_size);
                let mut comparison = Comparison::with_naive("d_hidden", &got, exact_d, naive_d);
                if self.shape.floats == FloatDtype::Bf16 {
                    comparison.bound += half_ulp_of_bf16(exact_d);
                }
                if self.shape.precision == Precision::Bf16 {
                    // The product rounds each logit's gradient to bf16, with an error of at most 2^-9 of its value. The
                    // magnitudes of a row's gradients add up to at most 2 |d_logp|: Σ p is 1, and the target adds 1.
                    let largest = |values: &[f32]| values.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                    let d_logp = largest(&self.d_logps.download().expect("the device works"));
                    comparison.bound += 2f64.powi(-8) * f64::from(d_logp) * f64::from(largest(&self.weights));
                }
                vec![comparison]
            }
        }
    }
}
