//! A frozen linear layer with the low-rank updates of the policy and of the reference.

use crate::autograd::{Backward, Grads, Input, Saved, Tape, Var};
use crate::model::adapters::{LinearId, LowRank};
use crate::rows::Masks;
use crate::weights::{Frozen, FrozenVector};
use align_kernels::dropout::Dropout;
use align_kernels::gemm::{self, Accumulate, Dw, Dx, Forward};
use align_kernels::rng::Key;
use align_kernels::{Buffer, Precision, Result, add};
use std::ops::Range;

/// A frozen weight `[out_features, in_features]`, its bias, and its place among the model's linear layers.
#[derive(Debug, Clone)]
pub struct Linear {
    pub id: LinearId,
    pub weight: Frozen,
    pub bias: Option<FrozenVector>,
}

/// `y = x·Wᵀ + bias + scaling * (dropout(x)·Aᵀ)·Bᵀ`: one product with `W` for all rows, the policy's update on policy rows, the
/// reference's on reference rows. Keeps `x` and saves `u = x·Aᵀ` (rank floats a row) where the policy has an update, nothing
/// else.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn linear(tape: &mut Tape, x: &Var, linear: &Linear) -> Result<Var> {
    let [out_features, in_features] = linear.weight.shape();
    let rows = x.rows();
    let precision = tape.precision();
    let mut y = tape.alloc("linear.y", rows * out_features)?;
    let pass = tape.pass().clone();
    let policy_rows = pass.plan.policy + pass.plan.detached;
    let policy = pass.adapters.policy.as_ref().and_then(|set| set.get(linear.id)).filter(|_| policy_rows > 0);
    let reference = pass.adapters.reference.as_ref().and_then(|set| set.get(linear.id));
    let masks = pass.masks.as_ref();
    let product = Forward {
        m: rows,
        n: out_features,
        k: in_features,
        alpha: 1.0,
        x: x.view(),
        w: linear.weight.view(),
        y: y.view_mut(),
        accumulate: Accumulate::Set,
        precision,
    };
    let u = match policy {
        None => {
            product.run(tape.device())?;
            None
        }
        Some(update) if masks.is_none() => {
            let rank = update.lora_a.shape()[0];
            let mut u = tape.alloc("linear.u", policy_rows * rank)?;
            let (a, b) = (update.lora_a.read(), update.lora_b.read());
            let (a, b, between) = (a.view(), b.view(), u.view_mut());
            let update = gemm::LowRank { rows: policy_rows, rank, scaling: update.scaling, a, b, between };
            product.run_with(Some(update), tape.device())?;
            Some(u)
        }
        Some(update) => {
            product.run(tape.device())?;
            Some(low_rank(tape, x, update, linear.id, 0..policy_rows, masks, &mut y)?)
        }
    };
    if let (Some(update), true) = (reference, policy_rows < rows) {
        low_rank(tape, x, update, linear.id, policy_rows..rows, None, &mut y)?;
    }
    if let Some(bias) = &linear.bias {
        add::AddBias { rows, cols: out_features, bias: bias.view(), y: y.view_mut() }.run(tape.device())?;
    }
    let grad_rows = x.grad_rows();
    tape.push([rows, out_features], grad_rows, y, |tape| {
        let adapter = match (policy, u) {
            (Some(update), Some(u)) => {
                let rank = update.lora_a.shape()[0];
                Some(Adapter {
                    x: tape.keep(x)?,
                    u: tape.save(u, grad_rows * rank)?,
                    update: update.clone(),
                    masks: masks.cloned(),
                })
            }
            _ => None,
        };
        Ok(Node { input: x.input(), id: linear.id, weight: linear.weight.clone(), precision, adapter })
    })
}

/// Adds `scaling * (dropout(x)·Aᵀ)·Bᵀ` to rows `rows` of `y` and gives `x·Aᵀ`.
fn low_rank(
    tape: &Tape,
    x: &Var,
    update: &LowRank,
    id: LinearId,
    rows: Range<usize>,
    masks: Option<&Masks>,
    y: &mut Buffer<f32>,
) -> Result<Buffer<f32>> {
    let device = tape.device();
    let [rank, in_features] = update.lora_a.shape();
    let out_features = update.lora_b.shape()[0];
    let n_rows = rows.len();
    let x = x.view().range(rows.start * in_features..rows.end * in_features);
    let dropped = match masks {
        Some(masks) => {
            let mut dropped = tape.alloc("linear.dropped", n_rows * in_features)?;
            mask(masks, id, n_rows, in_features, x, &mut dropped, device)?;
            Some(dropped)
        }
        None => None,
    };
    let x = dropped.as_ref().map_or(x, Buffer::view);
    let mut u = tape.alloc("linear.u", n_rows * rank)?;
    Forward {
        m: n_rows,
        n: rank,
        k: in_features,
        alpha: 1.0,
        x,
        w: update.lora_a.read().view().into(),
        y: u.view_mut(),
        accumulate: Accumulate::Set,
        precision: tape.precision(),
    }
    .run(device)?;
    Forward {
        m: n_rows,
        n: out_features,
        k: rank,
        alpha: update.scaling,
        x: u.view(),
        w: update.lora_b.read().view().into(),
        y: y.view_mut().range(rows.start * out_features..rows.end * out_features),
        accumulate: Accumulate::Add,
        precision: tape.precision(),
    }
    .run(device)?;
    Ok(u)
}

/// `y = mask∘x / (1 - p)`, the masks of this layer for the pass's first `rows` rows.
fn mask(
    masks: &Masks,
    id: LinearId,
    rows: usize,
    cols: usize,
    x: align_kernels::Slice<'_, f32>,
    y: &mut Buffer<f32>,
    device: &align_kernels::Device,
) -> Result<()> {
    let crate::rows::Dropout { p, seed, step } = masks.dropout;
    let key = Key::new(seed, step, id.0 as u64);
    Dropout { rows, cols, p, key, numbers: masks.numbers.view().range(0..rows), x, y: y.view_mut() }.run(device)
}

struct Adapter {
    x: Saved,
    u: Saved,
    update: LowRank,
    masks: Option<Masks>,
}

struct Node {
    input: Input,
    id: LinearId,
    weight: Frozen,
    precision: Precision,
    adapter: Option<Adapter>,
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        "linear"
    }

    // dx += dy·W; with du = scaling dy·B: dB += scaling dyᵀ·u, dA += duᵀ·dropout(x), dx += dropout'(du·A)
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let [out_features, in_features] = self.weight.shape();
        let m = self.input.grad_rows;
        let precision = self.precision;
        let (dx, accumulate) = grads.slot(self.input)?;
        let (n, k) = (out_features, in_features);
        let product = Dx { m, n, k, alpha: 1.0, dy: dy.view(), w: self.weight.view(), dx, accumulate, precision };
        let Some(Adapter { x, u, update, masks }) = &self.adapter else { return product.run(&device) };

        let scaling = update.scaling;
        let rank = update.lora_a.shape()[0];
        let (a, b) = (update.lora_a.read(), update.lora_b.read());
        let mut du = device.alloc("linear.du", m * rank)?;
        match masks {
            None => {
                let between = du.view_mut();
                let update = gemm::LowRank { rows: m, rank, scaling, a: a.view(), b: b.view(), between };
                product.run_with(Some(update), &device)?;
            }
            Some(_) => {
                product.run(&device)?;
                let (accumulate, w) = (Accumulate::Set, b.view().into());
                Dx { m, n, k: rank, alpha: scaling, dy: dy.view(), w, dx: du.view_mut(), accumulate, precision }
                    .run(&device)?;
            }
        }
        let (dw, accumulate) = grads.param(&update.lora_b)?;
        Dw { m, n: out_features, k: rank, alpha: scaling, dy: dy.view(), x: u.view(), dw, accumulate, precision }
            .run(&device)?;

        let dropped = match masks {
            Some(masks) => {
                let mut dropped = device.alloc("linear.dropped", m * in_features)?;
                mask(masks, self.id, m, in_features, x.view(), &mut dropped, &device)?;
                Some(dropped)
            }
            None => None,
        };
        let adapter_x = dropped.as_ref().map_or(x.view(), Buffer::view);
        let (dw, accumulate) = grads.param(&update.lora_a)?;
        Dw { m, n: rank, k: in_features, alpha: 1.0, dy: du.view(), x: adapter_x, dw, accumulate, precision }
            .run(&device)?;

        let Some(masks) = masks else { return Ok(()) };
        let mut through = device.alloc("linear.d_dropped", m * in_features)?;
        let (accumulate, w) = (Accumulate::Set, a.view().into());
        Dx { m, n: rank, k, alpha: 1.0, dy: du.view(), w, dx: through.view_mut(), accumulate, precision }
            .run(&device)?;
        let mut masked = device.alloc("linear.d_dropped", m * in_features)?;
        mask(masks, self.id, m, in_features, through.view(), &mut masked, &device)?;
        grads.give(self.input, masked)
    }
}
