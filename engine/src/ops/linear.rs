//! Frozen linear layers that read one input, with the low-rank updates of the policy and of the reference.

use crate::adapters::{AdapterSet, LinearId, LowRank};
use crate::autograd::{Backward, Grads, Input, Saved, SavedF32, SavedOrRecomputed, Tape, Var};
use crate::pass::{Masks, Pass};
use crate::weights::{Frozen, FrozenVector};
use align_kernels::dropout::Dropout;
use align_kernels::gemm::{self, Accumulate, Dw, Dx, Piece, StackDx, StackForward};
use align_kernels::rng::Key;
use align_kernels::{Buffer, Columns, Device, FloatBuffer, FloatDtype, FloatSlice, Precision, Result, add};
use std::ops::Range;
use std::sync::{Arc, RwLockReadGuard};

/// A frozen linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The id by which adapters find the layer.
    pub id: LinearId,
    /// `[out_features, in_features]`
    pub weight: Frozen,
    /// `[out_features]`
    pub bias: Option<FrozenVector>,
}

/// Computes the outputs of `layers` side by side, each `x·Wᵀ + bias + scaling * (dropout(x)·Aᵀ)·Bᵀ`. Policy rows get the policy's
/// update. Reference rows get the reference's update, without dropout. Adds `residual` if there is one: the result is then f32,
/// like the residual. For a layer that the policy updates, saves `u = dropout(x)·Aᵀ` (rank floats a row) and keeps `x` unless it
/// can be recomputed. For other layers, saves nothing.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn linear(tape: &mut Tape, x: &Var, layers: &[Linear], residual: Option<&Var>) -> Result<Var> {
    let (rows, grad_rows) = (x.rows(), x.grad_rows());
    let out_features: usize = layers.iter().map(|layer| layer.weight.out_features()).sum();
    let dtype = residual.map_or(tape.precision().into(), |_| FloatDtype::F32);
    let mut y = tape.device().alloc_float("linear.y", dtype, rows * out_features)?;
    let pass = tape.pass().clone();
    let mut operands: Vec<Operand<'_>> =
        layers.iter().map(|layer| Operand::new(tape.device(), layer, x, &pass)).collect::<Result<_>>()?;
    let mut pieces: Vec<Piece<'_>> = operands.iter_mut().map(Operand::piece).collect();
    StackForward {
        m: rows,
        k: x.cols(),
        x: x.view(),
        pieces: &mut pieces,
        y: y.view_mut(),
        residual: residual.map(|residual| residual.view().expect_f32()),
        precision: pass.precision,
    }
    .run(tape.device())?;
    drop(pieces);
    let computed: Vec<Computed<'_>> = operands.into_iter().map(Operand::computed).collect();
    tape.push([rows, out_features], grad_rows, y, |tape| {
        let pieces = computed.into_iter().map(|layer| layer.save(tape, x)).collect::<Result<_>>()?;
        let (precision, masks) = (pass.precision, pass.masks.clone());
        Ok(Node { input: x.input(), residual: residual.map(Var::input), precision, pieces, masks })
    })
}

/// A layer and its updates in a forward pass.
struct Operand<'a> {
    layer: &'a Linear,
    policy: Option<Update<'a>>,
    reference: Option<Update<'a>>,
}

/// A layer whose output has been computed.
struct Computed<'a> {
    layer: &'a Linear,
    /// The policy's update and its `u`.
    policy: Option<(&'a LowRank, Buffer<f32>)>,
}

/// A low-rank update of the rows `rows`, and the values between its two products.
struct Update<'a> {
    of: &'a LowRank,
    rows: Range<usize>,
    a: RwLockReadGuard<'a, Buffer<f32>>,
    b: RwLockReadGuard<'a, Buffer<f32>>,
    /// The input after dropout, which the update reads instead of the layer's input. `None` without dropout.
    dropped: Option<FloatBuffer>,
    /// `[rows, rank]`
    u: Buffer<f32>,
}

impl<'a> Operand<'a> {
    fn new(device: &Device, layer: &'a Linear, x: &Var, pass: &'a Pass) -> Result<Operand<'a>> {
        let policy_rows = pass.plan.policy + pass.plan.detached;
        let (of_policy, of_reference) = (0..policy_rows, policy_rows..x.rows());
        let update = |set: &'a Option<Arc<AdapterSet>>, rows: &Range<usize>| {
            set.as_ref().filter(|_| !rows.is_empty()).and_then(|set| set.get(layer.id))
        };
        let policy = match update(&pass.adapters.policy, &of_policy) {
            Some(update) => {
                let cols = x.cols();
                let x = x.view().range(0..policy_rows * cols);
                let masked = |masks| mask(masks, layer.id, policy_rows, cols, x, device);
                let dropped = pass.masks.as_ref().map(masked).transpose()?;
                Some(Update::new(device, "linear.u", update, of_policy, dropped)?)
            }
            None => None,
        };
        let reference = update(&pass.adapters.reference, &of_reference);
        let reference =
            reference.map(|update| Update::new(device, "linear.u", update, of_reference, None)).transpose()?;
        Ok(Operand { layer, policy, reference })
    }

    fn piece(&mut self) -> Piece<'_> {
        Piece {
            n: self.layer.weight.out_features(),
            w: self.layer.weight.view(),
            bias: self.layer.bias.as_ref().map(FrozenVector::view),
            updates: self.policy.iter_mut().chain(&mut self.reference).map(Update::low_rank).collect(),
        }
    }

    fn computed(self) -> Computed<'a> {
        Computed { layer: self.layer, policy: self.policy.map(|update| (update.of, update.u)) }
    }
}

impl<'a> Update<'a> {
    fn new(
        device: &Device,
        name: &'static str,
        of: &'a LowRank,
        rows: Range<usize>,
        dropped: Option<FloatBuffer>,
    ) -> Result<Update<'a>> {
        let u = device.alloc(name, rows.len() * of.rank())?;
        Ok(Update { of, rows, a: of.lora_a.read(), b: of.lora_b.read(), dropped, u })
    }

    fn low_rank(&mut self) -> gemm::LowRank<'_> {
        gemm::LowRank {
            rows: self.rows.clone(),
            rank: self.of.rank(),
            scaling: self.of.scaling,
            a: self.a.view(),
            b: self.b.view(),
            x: self.dropped.as_ref().map(FloatBuffer::view),
            u: self.u.view_mut(),
        }
    }
}

impl Computed<'_> {
    /// Saves what the backward pass needs for the rows of `x` with a gradient.
    fn save(self, tape: &Tape, x: &Var) -> Result<SavedPiece> {
        let adapter = match self.policy {
            Some((update, u)) => {
                let u = tape.save(u, x.grad_rows() * update.rank())?;
                Some(Adapter { x: tape.keep_or_recompute(x)?, u, update: update.clone() })
            }
            None => None,
        };
        Ok(SavedPiece { id: self.layer.id, weight: self.layer.weight.clone(), adapter })
    }
}

/// Returns `mask∘x / (1 - p)` for the first `rows` rows of the pass, with the masks of the layer `id`.
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
    // dx += dy·W; with du = scaling dy·B: dB += scaling dyᵀ·u, dA += duᵀ·dropout(x), dx += dropout'(du·A)
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let mut dx = device.alloc_float("linear.dx", self.input.dtype, self.input.len())?;
        let mut layers = self.layers(&device, dy.view())?;
        self.input_gradient(&device, dy.view(), &mut layers, &mut dx)?;
        self.adapter_gradients(&device, layers, grads)?;
        grads.give(self.input, dx)?;
        match self.residual {
            Some(residual) => grads.give(residual, dy),
            None => Ok(()),
        }
    }
}

/// What the backward pass needs of a layer.
struct LayerGradient<'a> {
    piece: &'a SavedPiece,
    /// The layer's columns of the output's gradient.
    dy: Columns<'a>,
    /// The layer's update. Its field `u` holds `du = scaling dy·B`.
    update: Option<Update<'a>>,
}

impl Node {
    /// Makes the layers; their `du` is not computed yet.
    fn layers<'a>(&'a self, device: &Device, dy: FloatSlice<'a>) -> Result<Vec<LayerGradient<'a>>> {
        let (m, stride) = (self.input.grad_rows, self.out_features());
        let mut first = 0;
        let layer = |piece: &'a SavedPiece| {
            let columns = Columns { values: dy, first, stride };
            first += piece.weight.out_features();
            let update =
                piece.adapter.as_ref().map(|adapter| Update::new(device, "linear.du", &adapter.update, 0..m, None));
            Ok(LayerGradient { piece, dy: columns, update: update.transpose()? })
        };
        self.pieces.iter().map(layer).collect()
    }

    /// Sets `dx` and the `du` of each layer with an update.
    fn input_gradient(
        &self,
        device: &Device,
        dy: FloatSlice<'_>,
        layers: &mut [LayerGradient<'_>],
        dx: &mut FloatBuffer,
    ) -> Result<()> {
        let (m, k, precision) = (self.input.grad_rows, self.input.cols, self.precision);
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(layers.len());
        for LayerGradient { piece, update, .. } in &mut *layers {
            // with dropout, the update's part of the gradient must go through the mask, which happens below
            let update = update.as_mut().filter(|_| self.masks.is_none());
            let updates = update.map(Update::low_rank).into_iter().collect();
            pieces.push(Piece { n: piece.weight.out_features(), w: piece.weight.view(), bias: None, updates });
        }
        StackDx { m, k, dy, pieces: &mut pieces, dx: dx.view_mut(), precision }.run(device)?;
        drop(pieces);
        let Some(masks) = &self.masks else { return Ok(()) };
        for LayerGradient { piece, dy, update } in layers {
            let Some(Update { of, a, b, u: du, .. }) = update else { continue };
            let (n, rank, alpha, accumulate) = (piece.weight.out_features(), of.rank(), of.scaling, Accumulate::Set);
            let w = b.view().into();
            Dx { m, n, k: rank, alpha, dy: *dy, w, dx: du.view_mut().into(), accumulate, precision }.run(device)?;
            let mut through = device.alloc_float("linear.d_dropped", dx.dtype(), m * k)?;
            let (dy, w) = (Columns::all(du.view(), rank), a.view().into());
            Dx { m, n: rank, k, alpha: 1.0, dy, w, dx: through.view_mut(), accumulate, precision }.run(device)?;
            let masked = mask(masks, piece.id, m, k, through.view(), device)?;
            add::Add { len: m * k, x: masked.view(), y: dx.view_mut() }.run(device)?;
        }
        Ok(())
    }

    /// Adds the gradients of the adapters' matrices.
    fn adapter_gradients(&self, device: &Device, layers: Vec<LayerGradient<'_>>, grads: &mut Grads<'_>) -> Result<()> {
        let (m, k, precision) = (self.input.grad_rows, self.input.cols, self.precision);
        // all layers read the same input, so it is fetched or recomputed only once
        let mut input: Option<Saved> = None;
        for LayerGradient { piece, dy, update } in &layers {
            let (Some(Adapter { x, u, update }), Some(Update { u: du, .. })) = (&piece.adapter, update) else {
                continue;
            };
            let (n, rank) = (piece.weight.out_features(), update.rank());
            let (dw, accumulate) = grads.param(&update.lora_b)?;
            let (alpha, u) = (update.scaling, u.view().into());
            Dw { m, n, k: rank, alpha, dy: *dy, x: u, dw, accumulate, precision }.run(device)?;

            let saved = match input.take() {
                Some(saved) => saved,
                None => x.get(device)?,
            };
            let masked = |masks| mask(masks, piece.id, m, k, saved.view(), device);
            let dropped = self.masks.as_ref().map(masked).transpose()?;
            let x = dropped.as_ref().map_or(saved.view(), FloatBuffer::view);
            let (dw, accumulate) = grads.param(&update.lora_a)?;
            let dy = Columns::all(du.view(), rank);
            Dw { m, n: rank, k, alpha: 1.0, dy, x, dw, accumulate, precision }.run(device)?;
            input = Some(saved);
        }
        Ok(())
    }

    fn out_features(&self) -> usize {
        self.pieces.iter().map(|piece| piece.weight.out_features()).sum()
    }
}
