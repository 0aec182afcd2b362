//! Frozen linear layers that read one input, with the low-rank updates of the policy and of the reference.

use crate::adapters::{AdapterSet, LinearId, LowRank};
use crate::autograd::{Backward, Grads, Input, Saved, SavedF32, SavedOrRecomputed, Tape, Var};
use crate::pass::Masks;
use crate::weights::{Frozen, FrozenVector};
use align_kernels::dropout::Dropout;
use align_kernels::gemm::{self, Accumulate, Dw, Dx, Piece, StackDx, StackForward};
use align_kernels::rng::Key;
use align_kernels::{
    Buffer, Columns, Device, FloatBuffer, FloatDtype, FloatSlice, FloatSliceMut, Precision, Result, add,
};
use std::ops::Range;

/// A frozen weight `[out_features, in_features]`, its bias, and its place among the model's linear layers.
#[derive(Debug, Clone)]
pub struct Linear {
    pub id: LinearId,
    pub weight: Frozen,
    pub bias: Option<FrozenVector>,
}

/// The outputs of `layers` side by side, each `x·Wᵀ + bias + scaling * (dropout(x)·Aᵀ)·Bᵀ`: the policy's update on policy rows,
/// the reference's on reference rows; on top of `residual`, which the result is like then. Keeps `x` unless it can be
/// recomputed, and saves `u = x·Aᵀ` (rank floats a row) where the policy has an update, nothing else.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn linear(tape: &mut Tape, x: &Var, layers: &[Linear], residual: Option<&Var>) -> Result<Var> {
    let rows = x.rows();
    let out_features: usize = layers.iter().map(|layer| layer.weight.shape()[0]).sum();
    let dtype = residual.map_or(tape.precision().into(), |_| FloatDtype::F32);
    let mut y = tape.device().alloc_float("linear.y", dtype, rows * out_features)?;
    let pass = tape.pass().clone();
    let policy_rows = pass.plan.policy + pass.plan.detached;
    let mut forward = |rows: Range<usize>, adapter: Option<&AdapterSet>, masks: Option<&Masks>| {
        let call = Call { layers, x, residual, y: y.view_mut(), precision: pass.precision };
        call.forward(tape.device(), rows, adapter, masks)
    };
    let (policy, reference) = (pass.adapters.policy.as_deref(), pass.adapters.reference.as_deref());
    let u = match (policy, reference) {
        (None, None) => forward(0..rows, None, None)?,
        _ => {
            let u = forward(0..policy_rows, policy, pass.masks.as_ref())?;
            forward(policy_rows..rows, reference, None)?;
            u
        }
    };
    let grad_rows = x.grad_rows();
    tape.push([rows, out_features], grad_rows, y, |tape| {
        let mut pieces = Vec::with_capacity(layers.len());
        for (layer, u) in layers.iter().zip(u) {
            let update = policy.and_then(|set| set.get(layer.id));
            let adapter = match (update, u) {
                (Some(update), Some(u)) => {
                    let u = tape.save(u, grad_rows * update.lora_a.shape()[0])?;
                    Some(Adapter { x: tape.keep_or_recompute(x)?, u, update: update.clone() })
                }
                _ => None,
            };
            pieces.push(SavedPiece { id: layer.id, weight: layer.weight.clone(), adapter });
        }
        let (precision, masks) = (pass.precision, pass.masks.clone());
        Ok(Node { input: x.input(), residual: residual.map(Var::input), precision, pieces, masks })
    })
}

/// The operands of all rows.
struct Call<'a> {
    layers: &'a [Linear],
    x: &'a Var,
    residual: Option<&'a Var>,
    y: FloatSliceMut<'a>,
    precision: Precision,
}

impl Call<'_> {
    /// Computes rows `rows`, and gives `u` of each layer with an update.
    fn forward(
        self,
        device: &Device,
        rows: Range<usize>,
        adapter: Option<&AdapterSet>,
        masks: Option<&Masks>,
    ) -> Result<Vec<Option<Buffer<f32>>>> {
        let Call { layers, x, residual, y, precision } = self;
        let (m, k) = (rows.len(), x.cols());
        let n: usize = layers.iter().map(|layer| layer.weight.shape()[0]).sum();
        let x = x.view().range(rows.start * k..rows.end * k);
        let updates: Vec<Option<&LowRank>> =
            layers.iter().map(|layer| adapter.and_then(|set| set.get(layer.id)).filter(|_| m > 0)).collect();
        let mut dropped = Vec::with_capacity(layers.len());
        let mut between = Vec::with_capacity(layers.len());
        for (layer, update) in layers.iter().zip(&updates) {
            dropped.push(match (masks, update) {
                (Some(masks), Some(_)) => Some(mask(masks, layer.id, m, k, x, device)?),
                _ => None,
            });
            between.push(match update {
                Some(update) => Some(device.alloc("linear.u", m * update.lora_a.shape()[0])?),
                None => None,
            });
        }
        let matrices: Vec<_> =
            updates.iter().map(|update| update.map(|update| (update.lora_a.read(), update.lora_b.read()))).collect();
        let mut pieces = Vec::with_capacity(layers.len());
        for (i, between) in between.iter_mut().enumerate() {
            let (layer, update) = (&layers[i], updates[i]);
            let update = match (update, &matrices[i], between) {
                (Some(update), Some((a, b)), Some(between)) => Some(gemm::LowRank {
                    rank: update.lora_a.shape()[0],
                    scaling: update.scaling,
                    a: a.view(),
                    b: b.view(),
                    x: dropped[i].as_ref().map(FloatBuffer::view),
                    between: between.view_mut(),
                }),
                _ => None,
            };
            let bias = layer.bias.as_ref().map(FrozenVector::view);
            pieces.push(Piece { n: layer.weight.shape()[0], w: layer.weight.view(), bias, update });
        }
        let place = rows.start * n..rows.end * n;
        let residual = residual.map(|residual| residual.view().expect_f32().range(place.clone()));
        StackForward { m, k, x, pieces: &mut pieces, y: y.range(place), residual, precision }.run(device)?;
        drop(pieces);
        Ok(between)
    }
}

/// `mask∘x / (1 - p)`, the masks of this layer for the pass's first `rows` rows.
fn mask(
    masks: &Masks,
    id: LinearId,
    rows: usize,
    cols: usize,
    x: FloatSlice<'_>,
    device: &Device,
) -> Result<FloatBuffer> {
    let crate::pass::Dropout { p, seed, step } = masks.dropout;
    let key = Key::new(seed, step, id.0 as u64);
    let mut y = device.alloc_float("linear.dropped", x.dtype(), rows * cols)?;
    Dropout { rows, cols, p, key, numbers: masks.numbers.view().range(0..rows), x, y: y.view_mut() }.run(device)?;
    Ok(y)
}

struct Adapter {
    x: SavedOrRecomputed,
    u: SavedF32,
    update: LowRank,
}

struct SavedPiece {
    id: LinearId,
    weight: Frozen,
    adapter: Option<Adapter>,
}

struct Node {
    input: Input,
    residual: Option<Input>,
    precision: Precision,
    pieces: Vec<SavedPiece>,
    masks: Option<Masks>,
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        "linear"
    }

    // dx += dy·W; with du = scaling dy·B: dB += scaling dyᵀ·u, dA += duᵀ·dropout(x), dx += dropout'(du·A)
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let mut dx = device.alloc_float("linear.dx", self.input.dtype, self.input.len())?;
        let du = self.input_gradient(&device, dy.view(), &mut dx)?;
        let n: usize = self.pieces.iter().map(|piece| piece.weight.shape()[0]).sum();
        let (m, k, precision) = (self.input.grad_rows, self.input.cols, self.precision);
        let mut first = 0;
        // the layers read one input
        let mut input: Option<Saved> = None;
        for (piece, du) in self.pieces.iter().zip(&du) {
            let out_features = piece.weight.shape()[0];
            let dy = Columns { values: dy.view(), first, stride: n };
            first += out_features;
            let (Some(Adapter { x, u, update }), Some(du)) = (&piece.adapter, du) else { continue };
            let rank = update.lora_a.shape()[0];
            let (dw, accumulate) = grads.param(&update.lora_b)?;
            let (alpha, u) = (update.scaling, u.view().into());
            Dw { m, n: out_features, k: rank, alpha, dy, x: u, dw, accumulate, precision }.run(&device)?;

            let x = match input.take() {
                Some(x) => x,
                None => x.get(&device)?,
            };
            let dropped = match &self.masks {
                Some(masks) => Some(mask(masks, piece.id, m, k, x.view(), &device)?),
                None => None,
            };
            let saved = x.clone();
            let x = dropped.as_ref().map_or(x.view(), FloatBuffer::view);
            let (dw, accumulate) = grads.param(&update.lora_a)?;
            let dy = Columns::all(du.view(), rank);
            Dw { m, n: rank, k, alpha: 1.0, dy, x, dw, accumulate, precision }.run(&device)?;
            input = Some(saved);
        }
        grads.give(self.input, dx)?;
        match self.residual {
            Some(residual) => grads.give(residual, dy),
            None => Ok(()),
        }
    }
}

impl Node {
    /// Sets `dx` and gives `du` of each layer with an update.
    fn input_gradient(
        &self,
        device: &Device,
        dy: FloatSlice<'_>,
        dx: &mut FloatBuffer,
    ) -> Result<Vec<Option<Buffer<f32>>>> {
        let (m, k, precision) = (self.input.grad_rows, self.input.cols, self.precision);
        let update_of = |piece: &SavedPiece| piece.adapter.as_ref().map(|adapter| adapter.update.clone());
        let updates: Vec<Option<LowRank>> = self.pieces.iter().map(update_of).collect();
        let matrices: Vec<_> = (updates.iter())
            .map(|update| update.as_ref().map(|update| (update.lora_a.read(), update.lora_b.read())))
            .collect();
        let mut between = Vec::with_capacity(updates.len());
        for update in &updates {
            between.push(match update {
                Some(update) => Some(device.alloc("linear.du", m * update.lora_a.shape()[0])?),
                None => None,
            });
        }
        let mut pieces = Vec::with_capacity(updates.len());
        for (i, between) in between.iter_mut().enumerate() {
            let update = match (&updates[i], &matrices[i], between) {
                // behind a mask, the update's part of the gradient goes through the mask too
                (Some(update), Some((a, b)), Some(between)) if self.masks.is_none() => Some(gemm::LowRank {
                    rank: update.lora_a.shape()[0],
                    scaling: update.scaling,
                    a: a.view(),
                    b: b.view(),
                    x: None,
                    between: between.view_mut(),
                }),
                _ => None,
            };
            let weight = &self.pieces[i].weight;
            pieces.push(Piece { n: weight.shape()[0], w: weight.view(), bias: None, update });
        }
        let n: usize = pieces.iter().map(|piece| piece.n).sum();
        StackDx { m, k, dy, pieces: &mut pieces, dx: dx.view_mut(), precision }.run(device)?;
        drop(pieces);
        let Some(masks) = &self.masks else { return Ok(between) };
        let mut first = 0;
        for (i, between) in between.iter_mut().enumerate() {
            let (piece, dy) = (&self.pieces[i], Columns { values: dy, first, stride: n });
            let out_features = piece.weight.shape()[0];
            first += out_features;
            let (Some(update), Some((a, b)), Some(du)) = (&updates[i], &matrices[i], between) else { continue };
            let rank = update.lora_a.shape()[0];
            let (accumulate, w, alpha) = (Accumulate::Set, b.view().into(), update.scaling);
            Dx { m, n: out_features, k: rank, alpha, dy, w, dx: du.view_mut().into(), accumulate, precision }
                .run(device)?;
            let mut through = device.alloc_float("linear.d_dropped", dx.dtype(), m * k)?;
            let (dy, w) = (Columns::all(du.view(), rank), a.view().into());
            Dx { m, n: rank, k, alpha: 1.0, dy, w, dx: through.view_mut(), accumulate, precision }.run(device)?;
            let masked = mask(masks, piece.id, m, k, through.view(), device)?;
            add::Add { len: m * k, x: masked.view(), y: dx.view_mut() }.run(device)?;
        }
        Ok(between)
    }
}
