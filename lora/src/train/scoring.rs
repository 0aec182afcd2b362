//! Computes log-probs or rewards of answers, in one forward pass over a forest.

use super::forest::{Branch, Forest, Scored, Scorers, Tree};
use super::reference_cache::{ReferenceCache, SequenceKey};
use crate::objective::{Objective, Scores};
use align_engine::adapters::Adapters;
use align_engine::autograd::{Mode, Tape, Var};
use align_engine::model::{Inputs, Model};
use align_engine::ops::{ScoredRows, ScoredTokens, TokenLogps};
use align_engine::pass::{Dropout, Masks};
use align_kernels::{Buffer, KernelError, Precision, Result};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// A model with the adapters of policy and reference.
#[derive(Debug, Clone)]
pub struct Scoring<'m> {
    /// The base model, which policy and reference share.
    pub model: &'m Model,
    /// The adapters of policy and reference. A model without an adapter is the bare base.
    pub adapters: Adapters,
    /// Which models score the answers of a pass.
    pub scorers: Scorers,
    /// Number format in which the matrix products multiply.
    pub precision: Precision,
    /// What the logits are divided by before their softmax, above 0.
    pub logp_temperature: f32,
    /// Whether a forward pass also computes [`Forward::log_sum_squares`].
    pub extras: bool,
    /// Where the log-probs of the reference are looked up and kept. The cache must belong to this model, reference and
    /// precision.
    pub cache: Option<Arc<ReferenceCache>>,
}

/// Dropout of a forward pass. A mask depends on the token's number in the optimiser step, so a step gives the same numbers
/// however it is cut into passes.
#[derive(Debug, Clone)]
pub struct StepDropout {
    /// Probability, seed and step number. They are the same for all passes of the step.
    pub dropout: Dropout,
    /// Where each tree of the pass belongs in the step.
    pub trees: Vec<TreeOfStep>,
}

/// Where a tree of a pass belongs in the optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeOfStep {
    /// Place of its data row in the step.
    pub row: usize,
    /// Number of tokens in the row's answers before the first answer of this tree.
    pub left_out: usize,
}

impl StepDropout {
    /// Returns the number that token `token` of tree `tree` has in the step. The tree's prompt has `prompt` tokens. No two tokens
    /// of a step have the same number.
    fn number(&self, tree: usize, token: usize, prompt: usize) -> u64 {
        let TreeOfStep { row, left_out } = self.trees[tree];
        let token = if token < prompt { token } else { token + left_out };
        (row as u64) << 32 | token as u64
    }
}

/// A forward pass, with its tape for the backward pass.
pub struct Forward {
    tape: Tape,
    outputs: Var,
    /// The outputs, copied to the host: the log-prob of each scored token, or with [`Scorers::Reward`] the score of each answer.
    /// Log-probs from the cache follow.
    tokens: Vec<f32>,
    log_sum_squares: Option<Vec<f64>>,
    answers: Vec<Scored>,
}

impl Scorers {
    /// Returns the scorers that an objective needs on a model.
    pub fn of(objective: &Objective, model: &Model) -> Scorers {
        match (objective.scores(), objective.reference()) {
            (Scores::Reward, _) => Scorers::Reward { pad: model.config().pad_token_id },
            (Scores::LogProbs, true) => Scorers::PolicyAndReference,
            (Scores::LogProbs, false) => Scorers::Policy,
        }
    }
}

impl<'m> Scoring<'m> {
    /// Returns this scoring without the reference, for passes over answers that the reference has scored already.
    pub(super) fn policy_alone(&self) -> Scoring<'m> {
        let scorers = match self.scorers {
            Scorers::PolicyAndReference => Scorers::Policy,
            other => other,
        };
        Scoring { scorers, cache: None, ..self.clone() }
    }

    /// Lays out the rows of a forward pass over `trees`. The reference has rows only for answers that are not in the cache.
    pub fn forest(&self, trees: &[Tree<'_>]) -> Forest {
        match self.cached() {
            Some(cache) => {
                let keys: Vec<SequenceKey> = keys(trees).map(|(key, _)| key).collect();
                let held = cache.holds(&keys);
                self.forest_of(trees, |answer| !held[answer])
            }
            None => self.forest_of(trees, |_| self.scorers == Scorers::PolicyAndReference),
        }
    }

    /// Lays out the rows as [`Scoring::forest`] does, but the reference has rows for the answers that `referenced` accepts.
    /// `referenced` gets the number of an answer, counted over all trees.
    pub(super) fn forest_of(&self, trees: &[Tree<'_>], referenced: impl Fn(usize) -> bool) -> Forest {
        Forest::with_references(trees, self.scorers, referenced, |one, other| self.model.same_rope(one, other))
    }

    /// Returns the cache, if the reference scores answers at all.
    fn cached(&self) -> Option<&ReferenceCache> {
        self.cache.as_deref().filter(|_| self.scorers == Scorers::PolicyAndReference)
    }

    /// Runs the forward pass over `trees`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn forward(
        &self,
        trees: &[Tree<'_>],
        mode: Mode,
        dropout: Option<StepDropout>,
        layers_kept: usize,
    ) -> Result<Forward, KernelError> {
        let Some(cache) = self.cached() else {
            return self.run(trees, &self.forest(trees), mode, dropout, layers_kept);
        };
        self.compare(cache, trees)?;
        let keys: Vec<(SequenceKey, usize)> = keys(trees).collect();
        let found = cache.get(&keys);
        let forest = self.forest_of(trees, |answer| found[answer].is_none());
        let mut forward = self.run(trees, &forest, mode, dropout, layers_kept)?;
        cache.put(&forward.references(&keys));
        for (answer, logps) in forward.answers.iter_mut().zip(found) {
            if let Some(logps) = logps {
                let start = forward.tokens.len();
                forward.tokens.extend(logps);
                answer.reference = Some(start..forward.tokens.len());
            }
        }
        Ok(forward)
    }

    /// Checks the log-probs of an earlier run before the first of them is used. It computes the log-probs of one tree that has
    /// cached answers, and compares them with the cache.
    fn compare(&self, cache: &ReferenceCache, trees: &[Tree<'_>]) -> Result<(), KernelError> {
        if !cache.wants_comparison() {
            return Ok(());
        }
        let keys_of = |tree: &Tree<'_>| keys(std::slice::from_ref(tree)).collect::<Vec<_>>();
        let held = |tree: &&Tree<'_>| cache.holds(&keys_of(tree).iter().map(|(key, _)| *key).collect::<Vec<_>>());
        let Some(tree) = trees.iter().find(|tree| held(tree).contains(&true)) else { return Ok(()) };
        let trees = std::slice::from_ref(tree);
        let uncached = Scoring { cache: None, ..self.clone() };
        let forward = uncached.forward(trees, Mode::Inference, None, 0)?;
        cache.compare(&forward.references(&keys_of(tree)));
        Ok(())
    }

    fn run(
        &self,
        trees: &[Tree<'_>],
        forest: &Forest,
        mode: Mode,
        dropout: Option<StepDropout>,
        layers_kept: usize,
    ) -> Result<Forward, KernelError> {
        let masks = match dropout {
            Some(step) => {
                let policy = &forest.tokens[..forest.plan.policy + forest.plan.detached];
                let number = |&(tree, token): &(usize, usize)| step.number(tree, token, trees[tree].prompt.len());
                let numbers: Vec<u64> = policy.iter().map(number).collect();
                Some(self.masks(step.dropout, &numbers)?)
            }
            None => None,
        };
        self.over(forest, mode, masks, layers_kept)
    }

    /// Makes the dropout masks of policy rows. `numbers` holds the number that the token of each row has in the step.
    pub(super) fn masks(&self, dropout: Dropout, numbers: &[u64]) -> Result<Masks, KernelError> {
        Ok(Masks { dropout, numbers: Rc::new(self.model.device().upload("batch.numbers", numbers)?) })
    }

    /// Runs the forward pass over the rows of a forest.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) fn over(
        &self,
        forest: &Forest,
        mode: Mode,
        masks: Option<Masks>,
        layers_kept: usize,
    ) -> Result<Forward, KernelError> {
        let model = self.model;
        let device = model.device();
        let pass = model.pass(forest.plan.clone(), self.adapters.clone(), masks, self.precision)?;
        let ids = device.upload_indices("batch.ids", &forest.ids)?;
        let rows = Rc::new(device.upload_indices("batch.scored_rows", &forest.scored_rows)?);
        let (policy, answers) = (forest.scored_with_gradient, forest.answers.clone());
        let mut tape = Tape::new(device, pass, mode);
        if let Scorers::Reward { .. } = forest.scorers {
            let head = self.adapters.policy.as_ref().and_then(|set| set.score_head());
            let head = head.expect("whoever asks for rewards has an adapter with a score head");
            let outputs = model.scores(&mut tape, &ids, &ScoredRows { rows, policy }, head, layers_kept)?;
            let tokens = outputs.view().download()?;
            return Ok(Forward { tape, outputs, tokens, log_sum_squares: None, answers });
        }
        let targets = Rc::new(device.upload_indices("batch.targets", &forest.targets)?);
        let inputs = Inputs {
            ids,
            scored: ScoredTokens { rows, targets, policy },
            temperature: self.logp_temperature,
            with_extras: self.extras,
        };
        let TokenLogps { logps, extras } = model.token_logps(&mut tape, &inputs, layers_kept)?;
        let tokens = logps.view().download()?;
        let log_sum_squares = extras.map(|extras| extras.log_sum_squares);
        Ok(Forward { tape, outputs: logps, tokens, log_sum_squares, answers })
    }
}

/// Returns the cache key and the number of scored tokens of each answer of `trees`.
fn keys<'a>(trees: &'a [Tree<'_>]) -> impl Iterator<Item = (SequenceKey, usize)> + 'a {
    trees.iter().flat_map(|tree| tree.branches.iter().map(|branch| (key(tree.prompt, branch), branch.scored_tokens())))
}

/// Returns the cache key of an answer.
fn key(prompt: &[u32], answer: &Branch<'_>) -> SequenceKey {
    SequenceKey::new(prompt, answer.ids, answer.gaps())
}

impl Forward {
    /// Returns the reference's log-probs that the pass has computed, each with its key. `keys` are the keys of all answers of the
    /// pass.
    fn references(&self, keys: &[(SequenceKey, usize)]) -> Vec<(SequenceKey, &[f32])> {
        let computed = self.answers.iter().zip(keys);
        computed.filter_map(|(answer, (key, _))| Some((*key, self.tokens(answer.reference.as_ref()?)))).collect()
    }

    /// Returns the answers, in the order in which they were given.
    pub fn answers(&self) -> &[Scored] {
        &self.answers
    }

    /// Returns the log-probs of the scored tokens at `range`, in nats. [`Scored`] has the ranges of an answer.
    pub fn tokens(&self, range: &Range<usize>) -> &[f32] {
        &self.tokens[range.clone()]
    }

    /// Returns `ln Σ p²` over the vocabulary, for each scored token at `range`. Only a pass with [`Scoring::extras`] has it.
    ///
    /// # Panics
    /// If the pass has no extras.
    pub fn log_sum_squares(&self, range: &Range<usize>) -> &[f64] {
        &self.log_sum_squares.as_ref().expect("the pass was asked for extras")[range.clone()]
    }

    /// Returns the log-prob of the answer at `range`: the sum over its tokens, in f64. With [`Scorers::Reward`] it is the reward.
    pub fn sum(&self, range: &Range<usize>) -> f64 {
        self.tokens(range).iter().map(|&logp| f64::from(logp)).sum()
    }

    /// Adds the gradient of `Σ d * logp(token)` over scored tokens to `grads`. `derivatives` holds ranges of scored tokens, each
    /// with its `d`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn backward(
        self,
        derivatives: impl IntoIterator<Item = (Range<usize>, f64)>,
        grads: &mut align_engine::autograd::ParamGrads,
    ) -> Result<(), KernelError> {
        let mut d_tokens = vec![0f32; self.outputs.grad_rows()];
        for (range, derivative) in derivatives {
            d_tokens[range].fill(derivative as f32);
        }
        let dy: Buffer<f32> = self.tape.device().upload("objective.d_logps", &d_tokens)?;
        self.tape.backward(&self.outputs, dy, grads)
    }
}
