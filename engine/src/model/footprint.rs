//! How much memory a forward and a backward pass take, before they run.
//!
//! The allocations of `transformer.rs`, `block.rs` and the ops, in their order, counted instead of made: whoever changes what
//! an op keeps changes it here too, and the tests that compare the two say so.

use super::{Block, Fusion, Model, ModelConfig, NormPlacement, QkNorm};
use crate::adapters::Adapters;
use crate::rows::RowPlan;
use align_kernels::attention::{self, Geometry};
use align_kernels::gemm::StackShape;
use align_kernels::{Device, FloatDtype, Precision, token_logps};

/// The passes of a model with its adapters.
#[derive(Debug)]
pub struct Footprint<'m> {
    config: &'m ModelConfig,
    device: &'m Device,
    precision: Precision,
    /// Whether the adapters' inputs are masked.
    dropout: bool,
    layers: Vec<Ranks>,
    /// Whether a reward model's head scores the rows, in place of the output embedding.
    score_head: bool,
    /// The projections of a layer, in the order of use: those that read one input together.
    stacks: [Stack; 4],
}

/// Rank of the policy's update of each projection, in the order of use; 0 where there is none.
type Ranks = Vec<usize>;

/// Projections that read one input.
#[derive(Debug)]
struct Stack {
    /// Their places among those of a layer.
    places: std::ops::Range<usize>,
    in_features: usize,
    out_features: Vec<usize>,
}

impl Stack {
    fn cols(&self) -> usize {
        self.out_features.iter().sum()
    }
}

/// The rows of a pass.
#[derive(Debug, Clone, Copy)]
pub struct PassShape<'p> {
    pub plan: &'p RowPlan,
    /// Rows that are scored, and how many of them have a gradient.
    pub scored: usize,
    pub scored_with_gradient: usize,
}

/// Whether the adapters' gradients are there before the pass, from another one of the same step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradients {
    Fresh,
    There,
}

/// Bytes of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassBytes {
    /// The most that is held at once. The adapter and the optimiser's state are not counted, the adapter's gradients are.
    pub peak: u64,
    /// Kept inputs of the layers that are recomputed.
    pub layer_inputs: u64,
    /// What the other layers keep.
    pub kept: u64,
}

/// What is held, and the most that was.
#[derive(Debug, Default)]
struct Ledger {
    held: u64,
    peak: u64,
}

impl Ledger {
    fn take(&mut self, bytes: usize) {
        self.held += bytes as u64;
        self.peak = self.peak.max(self.held);
    }

    fn free(&mut self, bytes: usize) {
        debug_assert!(self.held >= bytes as u64, "what is freed was taken");
        self.held = self.held.saturating_sub(bytes as u64);
    }

    /// Takes and frees.
    fn pass(&mut self, bytes: usize) {
        self.take(bytes);
        self.free(bytes);
    }
}

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

/// A walk over a pass: its rows and what is held so far.
struct Walk<'a> {
    of: &'a Footprint<'a>,
    ledger: Ledger,
    /// All rows, those of the policy, those with a gradient.
    rows: usize,
    policy: usize,
    grad: usize,
    records: bool,
    attention: usize,
}

impl<'m> Footprint<'m> {
    /// Passes of `model` with `adapters`.
    pub fn new(model: &'m Model, adapters: &Adapters, precision: Precision, dropout: bool) -> Footprint<'m> {
        let config = model.config();
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_size(), config.kv_size());
        let (qkv, gate_up) = match config.fusion {
            Fusion::QkvAndGateUp => (vec![q + 2 * kv], vec![2 * intermediate]),
            Fusion::None => (vec![q, kv, kv], vec![intermediate; 2]),
        };
        let mut first = 0;
        let stacks = [(hidden, qkv), (q, vec![hidden]), (hidden, gate_up), (intermediate, vec![hidden])].map(
            |(in_features, out_features)| {
                let places = first..first + out_features.len();
                first = places.end;
                Stack { places, in_features, out_features }
            },
        );
        let rank = |linear: &super::LinearInfo| {
            let update = adapters.policy.as_ref().and_then(|set| set.get(linear.id));
            update.map_or(0, |update| update.lora_a.shape()[0])
        };
        let ranks: Vec<usize> = model.linears().iter().map(rank).collect();
        let layers = ranks.chunks(first).map(<[usize]>::to_vec).collect();
        let score_head = adapters.policy.as_ref().is_some_and(|set| set.score_head().is_some());
        Footprint { config, device: model.device(), precision, dropout, layers, score_head, stacks }
    }

    /// Bytes of a pass whose last `layers_kept` layers keep what their backward pass needs; without a backward pass where no
    /// row has a gradient.
    pub fn bytes(&self, shape: PassShape<'_>, layers_kept: usize, gradients: Gradients) -> PassBytes {
        let config = self.config;
        let PassShape { plan, scored, scored_with_gradient } = shape;
        let (rows, grad, hidden) = (plan.rows(), plan.policy, config.hidden_size);
        let geometry = Block::geometry(config, &config.layers[0]);
        let mut walk = Walk {
            of: self,
            ledger: Ledger::default(),
            rows,
            policy: plan.policy + plan.detached,
            grad,
            records: grad > 0,
            attention: self.attention(rows, geometry, plan).forward,
        };
        // ids, rope tables, indices and targets of scored rows
        let angles: usize = config.ropes.iter().map(|rope| rope.variant(0).inv_freq.len()).sum();
        walk.ledger.take(rows * F32 * (1 + 2 * angles) + 2 * scored * F32);

        walk.ledger.take(rows * hidden * F32);
        let recomputed = config.num_hidden_layers.saturating_sub(layers_kept);
        let mut bytes = PassBytes::default();
        for (layer, ranks) in self.layers.iter().enumerate() {
            let before = walk.ledger.held;
            if layer < recomputed && walk.records {
                walk.records = false;
                walk.block(ranks);
                walk.records = true;
                walk.keep(hidden * F32);
                walk.release(hidden * F32);
                bytes.layer_inputs += walk.ledger.held - before;
            } else {
                walk.block(ranks);
                walk.release(hidden * F32);
                bytes.kept += walk.ledger.held - before;
            }
        }
        walk.head(scored, scored_with_gradient);
        if grad > 0 {
            let only = plan.policy_only();
            self.backward(&mut walk, &only, scored_with_gradient, recomputed, gradients);
        }
        bytes.peak = walk.ledger.peak;
        bytes
    }

    /// Bytes of the gradients of all parameters.
    pub fn gradient_bytes(&self) -> u64 {
        let updates: u64 = self.layers.iter().map(|ranks| self.update_sizes(ranks) as u64).sum();
        updates + self.score_head_bytes() as u64
    }

    /// Bytes of a score head; 0 without one.
    fn score_head_bytes(&self) -> usize {
        if self.score_head { self.config.hidden_size * F32 } else { 0 }
    }

    /// Numbers that the head gives for a scored row: logits of the whole vocabulary, or one score.
    fn head_outputs(&self) -> usize {
        if self.score_head { 1 } else { self.config.vocab_size }
    }

    /// What the threads keep for packing.
    pub fn packed_bytes(&self, rows: usize, scored: usize) -> u64 {
        let largest = self.stacks.iter().map(|stack| self.stack(rows, stack, &[]).packed_bytes(self.device)).max();
        let head = StackShape {
            m: scored,
            k: self.config.hidden_size,
            pieces: &[self.head_outputs().min(512)],
            rank: 0,
            residual: false,
            own_inputs: false,
            precision: self.precision,
        };
        largest.unwrap_or(0).max(head.packed_bytes(self.device)) as u64
    }

    fn update_sizes(&self, ranks: &[usize]) -> usize {
        let sides = |stack: &Stack| {
            let outs = stack.out_features.iter().zip(&ranks[stack.places.clone()]);
            outs.map(|(out, rank)| F32 * rank * (stack.in_features + out)).sum::<usize>()
        };
        self.stacks.iter().map(sides).sum()
    }

    /// Bytes of a number between matrix products.
    fn float(&self) -> usize {
        FloatDtype::from(self.precision).bytes()
    }

    fn attention(&self, rows: usize, geometry: Geometry, plan: &RowPlan) -> align_kernels::ScratchBytes {
        attention::scratch_bytes(self.device, self.precision.into(), rows, geometry, &plan.segments())
    }

    fn stack<'a>(&self, m: usize, stack: &'a Stack, ranks: &[usize]) -> StackShape<'a> {
        StackShape {
            m,
            k: stack.in_features,
            pieces: &stack.out_features,
            rank: ranks.iter().copied().filter(|rank| *rank > 0).min().unwrap_or(0),
            // attention's and the MLP's last layers, unless a norm stands before the sum
            residual: stack.places.len() == 1
                && stack.cols() == self.config.hidden_size
                && self.config.norm_placement == NormPlacement::Pre,
            own_inputs: self.dropout,
            precision: self.precision,
        }
    }

    /// From the log-probs back to the first layer, freeing what the forward pass has kept.
    fn backward(&self, walk: &mut Walk<'_>, plan: &RowPlan, scored: usize, recomputed: usize, gradients: Gradients) {
        let (n, hidden, float) = (plan.policy, self.config.hidden_size, self.float());
        let geometry = Block::geometry(self.config, &self.config.layers[0]);
        let attention = self.attention(n, geometry, plan);
        if gradients == Gradients::There {
            walk.ledger.take(self.gradient_bytes() as usize);
        }
        let scratch = self.head_scratch(scored);
        let ledger = &mut walk.ledger;
        ledger.take(scored * F32); // d_logps, or d_scores
        if gradients == Gradients::Fresh {
            ledger.take(self.score_head_bytes());
        }
        ledger.take(scored * hidden * float); // d_hidden
        ledger.pass(scratch.backward);
        ledger.free(scored * (self.saved_by_head() + F32 + hidden * float)); // what the head kept, and d_logps
        ledger.take(scored * hidden * F32);
        ledger.free(scored * (hidden * (float + F32) + F32)); // d_hidden, and what the norm kept
        ledger.take(n * hidden * F32);
        ledger.free(scored * hidden * F32);

        // one row of the policy's is all rows here
        let mut inner = Walk {
            of: self,
            ledger: std::mem::take(&mut walk.ledger),
            rows: n,
            policy: n,
            grad: n,
            records: true,
            attention: attention.forward,
        };
        for (layer, ranks) in self.layers.iter().enumerate().rev() {
            if layer < recomputed {
                inner.block(ranks);
                inner.block_backward(ranks, attention.backward, gradients);
                inner.ledger.free(n * hidden * F32); // the output
            } else {
                inner.block_backward(ranks, attention.backward, gradients);
            }
        }
        walk.ledger = inner.ledger;
    }

    /// Bytes that the head saves for a scored row, beside its input: `token_logps` its log-sum-exp, `score_head` nothing.
    fn saved_by_head(&self) -> usize {
        if self.score_head { 0 } else { F32 }
    }

    fn head_scratch(&self, scored: usize) -> align_kernels::ScratchBytes {
        if self.score_head {
            // its products are in f32 whatever lies between the others
            let widened = if self.float() == F32 { 0 } else { scored * self.config.hidden_size * F32 };
            return align_kernels::ScratchBytes { forward: widened, backward: widened };
        }
        let sizes = [self.config.vocab_size, self.config.hidden_size];
        token_logps::scratch_bytes(self.device, self.precision, self.precision.into(), scored, sizes)
    }
}

impl Walk<'_> {
    /// The rows of a value that the backward pass needs: a copy, unless the value has no others.
    fn keep(&mut self, bytes_per_row: usize) {
        if self.records && self.rows > self.grad {
            self.ledger.take(self.grad * bytes_per_row);
        }
    }

    /// The forward pass is done with a value that was kept.
    fn release(&mut self, bytes_per_row: usize) {
        if !self.records || self.rows > self.grad {
            self.ledger.free(self.rows * bytes_per_row);
        }
    }

    /// The output of `rms_norm`, whose input is kept.
    fn norm(&mut self, input_bytes: usize, cols: usize) {
        self.ledger.take(self.rows * (cols * self.of.float() + F32));
        self.keep(F32);
        self.release(F32);
        self.keep(input_bytes);
    }

    /// The output of a stack of projections.
    fn linear(&mut self, stack: &Stack, ranks: &[usize], residual: bool) {
        let (of, ranks) = (self.of, &ranks[stack.places.clone()]);
        let output = if residual { F32 } else { of.float() };
        self.ledger.take(self.rows * stack.cols() * output);
        let rank: usize = ranks.iter().sum();
        self.ledger.take(self.policy * rank * F32);
        let updates = ranks.iter().filter(|rank| **rank > 0).count();
        let dropped = if of.dropout { updates * self.policy * stack.in_features * of.float() } else { 0 };
        let most = if rank > 0 { self.policy.max(self.rows - self.policy) } else { self.rows };
        self.ledger.pass(dropped + of.stack(most, stack, ranks).scratch_bytes(of.device).forward);
        if !self.records {
            self.ledger.free(self.policy * rank * F32);
        } else if self.policy > self.grad {
            self.ledger.take(self.grad * rank * F32);
            self.ledger.free(self.policy * rank * F32);
        }
    }

    /// `x + norm(layer(inner))`, or without a norm.
    fn output(&mut self, stack: &Stack, ranks: &[usize]) {
        let (of, hidden) = (self.of, self.of.config.hidden_size);
        self.linear(stack, ranks, of.config.norm_placement == NormPlacement::Pre);
        if of.config.norm_placement == NormPlacement::Sandwich {
            self.norm(hidden * of.float(), hidden);
            self.ledger.take(self.rows * hidden * F32);
            self.release(hidden * of.float());
            self.ledger.free(self.rows * hidden * of.float());
        }
    }

    /// A layer: its input stays, its output is new.
    fn block(&mut self, ranks: &[usize]) {
        let (config, float) = (self.of.config, self.of.float());
        let [qkv, o, gate_up, down] = &self.of.stacks;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        self.norm(hidden * F32, hidden);
        self.linear(qkv, ranks, false);
        self.ledger.free(self.rows * hidden * float);
        if config.qk_norm == QkNorm::PerHead {
            let rstds = (heads + config.num_key_value_heads) * F32;
            self.ledger.take(self.rows * (qkv.cols() * float + rstds));
            self.keep(rstds);
            self.release(rstds);
            self.keep(qkv.cols() * float);
            self.release(qkv.cols() * float);
        }
        self.ledger.take(self.rows * (config.q_size() * float + heads * F32));
        self.ledger.pass(self.attention);
        self.keep(qkv.cols() * float);
        self.keep(config.q_size() * float);
        self.keep(heads * F32);
        self.release(heads * F32);
        self.release(qkv.cols() * float);
        self.output(o, ranks);
        self.release(config.q_size() * float);

        self.norm(hidden * F32, hidden);
        self.linear(gate_up, ranks, false);
        self.ledger.free(self.rows * hidden * float);
        self.ledger.take(self.rows * down.in_features * float);
        self.keep(gate_up.cols() * float);
        self.release(gate_up.cols() * float);
        self.output(down, ranks);
        self.ledger.free(self.rows * down.in_features * float);
        self.release(hidden * F32);
    }

    /// Gathered rows, their norm, the log-probs or scores; the last layer's output goes.
    fn head(&mut self, scored: usize, with_gradient: usize) {
        let (hidden, float) = (self.of.config.hidden_size, self.of.float());
        let (all_rows, grad) = (self.rows, self.grad);
        self.ledger.take(scored * hidden * F32);
        (self.rows, self.grad) = (scored, with_gradient);
        self.norm(hidden * F32, hidden);
        let saved = self.of.saved_by_head();
        self.ledger.take(scored * (F32 + saved));
        self.ledger.pass(self.of.head_scratch(scored).forward);
        self.keep(hidden * float);
        self.keep(saved);
        self.release(saved);
        self.release(hidden * float);
        self.release(hidden * F32);
        (self.rows, self.grad) = (all_rows, grad);
        // no node has kept it: the gathering saves nothing
        self.ledger.free(all_rows * hidden * F32);
    }

    /// The backward pass of a stack: takes the gradient of its input, whose own is `dy`.
    fn linear_backward(&mut self, stack: &Stack, ranks: &[usize], again: usize, gradients: Gradients) {
        let (of, n) = (self.of, self.grad);
        let ranks = &ranks[stack.places.clone()];
        let scratch = of.stack(n, stack, ranks).scratch_bytes(of.device);
        let input = n * stack.in_features * of.float();
        let du = n * ranks.iter().sum::<usize>() * F32;
        self.ledger.take(input + du);
        self.ledger.pass(scratch.dx);
        if of.dropout && du > 0 {
            self.ledger.pass(2 * input + scratch.da.max(scratch.db));
        }
        let mut input_is_there = false;
        for (out, rank) in stack.out_features.iter().zip(ranks).filter(|(_, rank)| **rank > 0) {
            if gradients == Gradients::Fresh {
                self.ledger.take(rank * (stack.in_features + out) * F32);
            }
            self.ledger.pass(scratch.db);
            if !input_is_there {
                self.ledger.take(again);
                input_is_there = true;
            }
            self.ledger.pass(scratch.da + if of.dropout { input } else { 0 });
        }
        if input_is_there {
            self.ledger.free(again);
        }
        // the node goes with the `u` that it saved
        self.ledger.free(2 * du);
    }

    /// The gradient of `x + norm(layer(inner))` for `inner`; that of `x` is `dy`'s own memory.
    fn output_backward(&mut self, stack: &Stack, ranks: &[usize], again: usize, gradients: Gradients) {
        let (of, n, hidden) = (self.of, self.grad, self.of.config.hidden_size);
        let delta = n * hidden * of.float();
        if of.config.norm_placement == NormPlacement::Sandwich {
            self.ledger.take(2 * delta);
            self.ledger.free(delta); // the norm's dy
            self.ledger.free(delta + n * F32); // what the norm kept
        }
        self.linear_backward(stack, ranks, again, gradients);
        if of.config.norm_placement == NormPlacement::Sandwich {
            self.ledger.free(delta);
        }
    }

    /// A layer's backward pass, which frees what its forward pass has kept: `dy` becomes the gradient of its input.
    fn block_backward(&mut self, ranks: &[usize], attention: usize, gradients: Gradients) {
        let (config, float, n) = (self.of.config, self.of.float(), self.grad);
        let [qkv, o, gate_up, down] = &self.of.stacks;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let norm_again = n * (hidden * float + F32);

        self.output_backward(down, ranks, n * down.in_features * float, gradients);
        self.ledger.take(n * gate_up.cols() * float); // its gradient
        self.ledger.free(n * down.in_features * float);
        self.ledger.free(n * gate_up.cols() * float); // what was kept
        self.linear_backward(gate_up, ranks, norm_again, gradients);
        self.ledger.free(n * gate_up.cols() * float);
        self.ledger.free(n * hidden * float); // the norm's dy
        self.ledger.free(n * (hidden + 1) * F32); // what the norm kept

        self.output_backward(o, ranks, 0, gradients);
        self.ledger.take(n * qkv.cols() * float); // its gradient
        self.ledger.pass(attention);
        self.ledger.free(n * (config.q_size() * float + heads * F32 + qkv.cols() * float)); // o, lse, qkv
        self.ledger.free(n * config.q_size() * float);
        if config.qk_norm == QkNorm::PerHead {
            self.ledger.pass(n * qkv.cols() * float);
            self.ledger.free(n * (qkv.cols() * float + (heads + config.num_key_value_heads) * F32));
        }
        self.linear_backward(qkv, ranks, norm_again, gradients);
        self.ledger.free(n * qkv.cols() * float);
        self.ledger.free(n * hidden * float); // the norm's dy
        self.ledger.free(n * (hidden + 1) * F32); // what the norm kept
    }
}
