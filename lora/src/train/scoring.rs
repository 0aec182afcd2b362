//! Log-probs of answers: one forward pass over a forest.

use super::forest::{Forest, Scored, Scorers, Tree};
use align_engine::autograd::{Mode, Tape, Var};
use align_engine::model::adapters::Adapters;
use align_engine::model::{Inputs, Model};
use align_engine::ops::ScoredTokens;
use align_engine::rows::Dropout;
use align_kernels::{Buffer, KernelError, Precision, Result};
use std::ops::Range;
use std::rc::Rc;

/// A model with the adapters of the two sides.
#[derive(Debug, Clone)]
pub struct Scoring<'m> {
    pub model: &'m Model,
    pub adapters: Adapters,
    pub scorers: Scorers,
    pub precision: Precision,
}

/// A forward pass, its tape still there for the backward pass.
pub struct Forward {
    pub tape: Tape,
    logps: Var,
    /// Host copy, one for each scored token.
    tokens: Vec<f32>,
    answers: Vec<Scored>,
}

impl Scoring<'_> {
    /// Runs the forward pass over `trees`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        trees: &[Tree<'_>],
        mode: Mode,
        dropout: Option<Dropout>,
        layers_kept: usize,
    ) -> Result<Forward, KernelError> {
        let model = self.model;
        let device = model.device();
        let forest = Forest::new(trees, self.scorers, |one, other| model.same_rope(one, other));
        let Forest { plan, ids, scored_rows, targets, scored_with_gradient, answers } = forest;
        let pass = model.pass(plan, self.adapters.clone(), dropout, self.precision)?;
        let inputs = Inputs {
            ids: device.upload("batch.ids", &ids)?,
            scored: ScoredTokens {
                rows: Rc::new(device.upload("batch.scored_rows", &scored_rows)?),
                targets: Rc::new(device.upload("batch.targets", &targets)?),
                policy: scored_with_gradient,
            },
            with_extras: false,
        };
        let mut tape = Tape::new(device, pass, mode);
        let logps = model.token_logps(&mut tape, &inputs, layers_kept)?.logps;
        let tokens = logps.view().download();
        Ok(Forward { tape, logps, tokens, answers })
    }
}

impl Forward {
    /// The answers, in the order in which they were given.
    pub fn answers(&self) -> &[Scored] {
        &self.answers
    }

    /// Log-probs of scored tokens, nats.
    pub fn tokens(&self, range: &Range<usize>) -> &[f32] {
        &self.tokens[range.clone()]
    }

    /// Log-prob of an answer: the sum over its tokens, in f64.
    pub fn sum(&self, range: &Range<usize>) -> f64 {
        self.tokens(range).iter().map(|&logp| f64::from(logp)).sum()
    }

    /// The gradient of `Σ d_answer * logp(answer)`, added to `grads`: every token of an answer has the answer's derivative.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn backward(
        self,
        d_answers: impl IntoIterator<Item = (Range<usize>, f64)>,
        grads: &mut align_engine::autograd::ParamGrads,
    ) -> Result<(), KernelError> {
        let mut d_tokens = vec![0f32; self.logps.grad_rows()];
        for (range, derivative) in d_answers {
            d_tokens[range].fill(derivative as f32);
        }
        let dy: Buffer<f32> = self.tape.device().upload("objective.d_logps", &d_tokens)?;
        self.tape.backward(&self.logps, dy, grads)
    }
}
