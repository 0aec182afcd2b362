//! Generation: prefill, then one token per step for each sequence of the batch, with a cache of keys and values.
//!
//! A Phi 3 with longrope rotates all keys of a sequence differently once the sequence is longer than
//! `original_max_position_embeddings`. Its cached keys are then stale. So that sequence is read again, and continues as if it had
//! been that long from the start. The other sequences of the batch are not read again.

mod sampler;

pub use sampler::{Random, Sampling};

use crate::adapters::{AdapterSet, Adapters};
use crate::autograd::{Mode, Tape};
use crate::error::EngineError;
use crate::model::{KvCache, Model};
use crate::pass::Pass;
use crate::rows::{RowPlan, SequenceTree};
use align_kernels::argmax::{self, Argmax};
use align_kernels::{Buffer, Columns, Device, KernelError, Precision, rows};
use std::sync::Arc;

/// What to generate, and when to stop.
#[derive(Debug, Clone)]
pub struct Request {
    /// Maximum number of new tokens per prompt, the stop token included.
    pub max_new_tokens: usize,
    /// No stop token is chosen before this many new tokens.
    pub min_new_tokens: usize,
    /// Tokens that end a continuation: every end-of-sequence id of the model.
    pub stop: Vec<u32>,
    /// Applies to every prompt. The random draws differ from prompt to prompt.
    pub sampling: Sampling,
    /// Precision of the products with weights. The cache stores keys and values in this format.
    pub precision: Precision,
    /// Number of the first prompt among all prompts of the run. With it, the random draws for a prompt do not depend on which
    /// batch the prompt is in.
    pub first_sequence: u64,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was chosen; it is the last token.
    Stop,
    /// The continuation reached `max_new_tokens`.
    Length,
}

/// The continuation of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// New tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// Why the continuation ended. It is [`Finish::Length`] also if `on_token` ended the run.
    pub finish: Finish,
}

/// Continues every prompt in one batch. No prompt may be empty. Calls `on_token` with a prompt's place in `prompts` and a new
/// token as soon as the token is chosen. The run ends early if `on_token` returns `false`.
///
/// # Errors
/// [`EngineError::Kernel`], with [`KernelError::TokenId`] for an id outside the vocabulary and [`KernelError::Size`]
/// for more rows than a cache can hold; [`EngineError::NonFiniteLogits`].
pub fn generate(
    model: &Model,
    adapter: Option<&Arc<AdapterSet>>,
    prompts: &[Vec<u32>],
    request: &Request,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Result<Vec<Completion>, EngineError> {
    let device = model.device();
    let config = model.config();
    let batch = prompts.len();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let capacity = longest.saturating_add(request.max_new_tokens);
    let rows = batch.saturating_mul(capacity);
    if rows > u32::MAX as usize {
        let want = "below 2^32: fewer sequences together, or fewer new tokens";
        return Err(KernelError::Size { kernel: "kv_cache", argument: "sequences * tokens", got: rows, want }.into());
    }
    let kv_cols = config.num_key_value_heads * config.head_dim;
    let cache = KvCache::new(device, request.precision.into(), config.num_hidden_layers, batch, capacity, kv_cols)?;
    let adapters = Adapters { policy: adapter.cloned(), reference: None };

    let mut sequences: Vec<Vec<u32>> = prompts.to_vec();
    let mut finished: Vec<Option<Finish>> = vec![None; batch];
    let mut run = Run { model, adapters, precision: request.precision, cache };
    let mut logits = run.read(&sequences, &(0..batch).collect::<Vec<_>>())?;

    for step in 0..request.max_new_tokens {
        let banned: &[u32] = if step < request.min_new_tokens { &request.stop } else { &[] };
        let tokens = choose(device, &logits, &sequences, banned, step, request)?;
        for (b, token) in tokens.into_iter().enumerate() {
            if finished[b].is_some() {
                continue;
            }
            sequences[b].push(token);
            if request.stop.contains(&token) {
                finished[b] = Some(Finish::Stop);
            } else if step + 1 == request.max_new_tokens {
                finished[b] = Some(Finish::Length);
            }
            if !on_token(b, token) {
                finished.iter_mut().for_each(|finish| *finish = finish.or(Some(Finish::Length)));
            }
        }
        if finished.iter().all(Option::is_some) {
            break;
        }
        let grown = |b: &usize| {
            finished[*b].is_none() && {
                let now = sequences[*b].len();
                model.cache_is_stale(now - 1, now)
            }
        };
        let stale: Vec<usize> = (0..batch).filter(grown).collect();
        let others = (0..batch).any(|b| finished[b].is_none() && !stale.contains(&b));
        if others || stale.is_empty() {
            logits = run.step(&sequences)?;
        }
        // stale sequences are read one at a time: together they could need far more memory than the prompts did
        for b in stale {
            let read = run.read(&sequences, &[b])?;
            put_row(device, &mut logits, b, &read)?;
        }
    }
    Ok(sequences
        .into_iter()
        .zip(prompts)
        .zip(finished)
        .map(|((tokens, prompt), finish)| Completion {
            tokens: tokens[prompt.len()..].to_vec(),
            finish: finish.unwrap_or(Finish::Length),
        })
        .collect())
}

/// What all passes of a generation share.
struct Run<'a> {
    model: &'a Model,
    adapters: Adapters,
    precision: Precision,
    cache: KvCache,
}

impl Run<'_> {
    /// Reads the whole sequences at `places` into the cache. Returns the logits after the last token of each.
    fn read(&mut self, sequences: &[Vec<u32>], places: &[usize]) -> Result<Buffer<f32>, EngineError> {
        let device = self.model.device();
        let lengths: Vec<usize> = places.iter().map(|&b| sequences[b].len()).collect();
        self.cache.begin_prefill(device, places.iter().copied().zip(lengths.iter().copied()))?;
        let plan = prompts_back_to_back(&lengths);
        let last_rows = plan.trees.iter().map(|tree| tree.prompt.end as u32 - 1).collect();
        let pass = self.model.pass(plan, self.adapters.clone(), None, self.precision)?;
        let ids: Vec<u32> = places.iter().flat_map(|&b| sequences[b].iter().copied()).collect();
        let ids = device.upload_indices("generate.ids", &ids)?;
        let mut tape = Tape::new(device, pass, Mode::Inference);
        Ok(self.model.logits(&mut tape, &ids, last_rows, &mut self.cache)?)
    }

    /// Returns the logits after the last token of every sequence. All earlier tokens are in the cache already. A finished
    /// sequence stays in the batch at its last token: its row is computed but not used.
    fn step(&mut self, sequences: &[Vec<u32>]) -> Result<Buffer<f32>, EngineError> {
        let (device, batch) = (self.model.device(), sequences.len());
        let ids: Vec<u32> = sequences.iter().map(|tokens| tokens[tokens.len() - 1]).collect();
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let positions: Vec<u32> = lengths.iter().map(|length| *length as u32 - 1).collect();
        self.cache.begin_decode(device, &lengths)?;
        let plan = RowPlan { policy: 0, detached: batch, reference: 0, trees: Vec::new() };
        let ropes = self.model.rope_tables(&positions, &lengths)?;
        let pass = Pass::new(device, plan, ropes, self.adapters.clone(), None, self.precision)?;
        let ids = device.upload_indices("generate.ids", &ids)?;
        let mut tape = Tape::new(device, pass, Mode::Inference);
        Ok(self.model.logits(&mut tape, &ids, (0..batch as u32).collect(), &mut self.cache)?)
    }
}

/// Copies one row of logits to its place among the logits of all sequences.
fn put_row(device: &Device, logits: &mut Buffer<f32>, place: usize, row: &Buffer<f32>) -> Result<(), EngineError> {
    let cols = row.len();
    let index = device.upload_indices("generate.place", &[place as u32])?;
    let x = Columns { values: row.view().into(), first: 0, stride: cols };
    rows::Scatter { cols, index: index.view(), x, y: logits.view_mut().into() }.run(device)?;
    Ok(())
}

/// Chooses the next token of every sequence. Greedy decoding takes the largest logit on the device; other sampling reads the
/// logits on the host.
fn choose(
    device: &Device,
    logits: &Buffer<f32>,
    sequences: &[Vec<u32>],
    banned: &[u32],
    step: usize,
    request: &Request,
) -> Result<Vec<u32>, EngineError> {
    let (rows, cols) = (sequences.len(), logits.len() / sequences.len().max(1));
    let non_finite = |b: usize| EngineError::NonFiniteLogits {
        sequence: request.first_sequence + b as u64,
        position: sequences[b].len() - 1,
    };
    if request.sampling == Sampling::GREEDY {
        let mut tokens = device.alloc("generate.tokens", rows)?;
        let left_out = device.upload_indices("generate.banned", banned)?;
        Argmax { rows, cols, x: logits.view(), left_out: left_out.view(), y: tokens.view_mut() }.run(device)?;
        let tokens = tokens.download()?;
        return match tokens.iter().position(|token| *token == argmax::NONE) {
            Some(b) => Err(non_finite(b)),
            None => Ok(tokens),
        };
    }
    let host = logits.download()?;
    let chosen = host.chunks_exact(cols).zip(sequences).enumerate().map(|(b, (row, tokens))| {
        if !row.iter().all(|logit| logit.is_finite()) {
            return Err(non_finite(b));
        }
        let sequence = request.first_sequence + b as u64;
        Ok(request.sampling.choose(row, tokens, banned, sequence, step as u64))
    });
    chosen.collect()
}

/// Returns a plan that has each prompt as a tree without branches. No row has a gradient.
fn prompts_back_to_back(lengths: &[usize]) -> RowPlan {
    let mut trees = Vec::with_capacity(lengths.len());
    let mut row = 0;
    for length in lengths {
        trees.push(SequenceTree { prompt: row..row + length, branches: Vec::new() });
        row += length;
    }
    RowPlan { policy: 0, detached: row, reference: 0, trees }
}
