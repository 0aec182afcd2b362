//! Runs the passes of a run on a device that only counts, to learn in advance how much memory they hold and how many operations
//! they need.

use super::forest::{Forest, Scorers};
use super::options::TrainOptions;
use super::scoring::{Forward, Scoring};
use crate::objective::Objective;
use crate::optim::Optimizer;
use align_engine::adapters::Adapters;
use align_engine::autograd::{Mode, ParamGrads, Tape};
use align_engine::model::{Model, ModelConfig};
use align_engine::param::Param;
use align_engine::pass::Dropout;
use align_kernels::device::Packed;
use align_kernels::{Count, Device, Precision, Result};
use std::sync::Arc;

/// A model without weights, with adapters and an optimiser of the same shapes as the run's.
#[derive(Debug)]
pub(super) struct Counted {
    count: Arc<Count>,
    model: Model,
    adapters: Adapters,
    params: Vec<Param>,
    _optimizer: Optimizer,
    scorers: Scorers,
    precision: Precision,
    extras: bool,
    dropout: Option<Dropout>,
    /// Bytes of the adapters and of the optimiser's state.
    state: u64,
}

/// Whether another pass of the same step has made the adapters' gradients before this pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradients {
    /// No: the pass makes them.
    Fresh,
    /// Yes: the pass adds to them.
    There,
}

/// What a pass needs in addition to what a run holds all the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassCost {
    /// Largest number of bytes that the pass holds at any time, the adapters' gradients included.
    pub peak: u64,
    /// Bytes that the layers keep between the forward and the backward pass. A recomputed layer keeps only its inputs.
    pub kept: u64,
    /// Buffers for packing that the threads keep after the pass.
    pub packed: Packed,
    /// Operations of the forward pass. A multiplication and an addition count as two. Norms, gates, rotations and the optimiser
    /// do not count.
    pub forward: f64,
    /// Operations of the backward pass, including what it recomputes.
    pub backward: f64,
}

/// Operations of one layer's forward pass and of its backward pass. The backward pass includes a second forward pass of the
/// rows with a gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LayerCost {
    pub forward: f64,
    pub backward: f64,
}

impl Counted {
    /// Makes a model of `config` that counts what passes would cost on `device`.
    ///
    /// # Errors
    /// None in practice: a device that only counts refuses no memory.
    pub(super) fn new(
        device: &Device,
        config: ModelConfig,
        adapters: &Adapters,
        objective: &Objective,
        options: &TrainOptions,
    ) -> Result<Counted> {
        let count = device.count();
        let model = Model::absent(&count, config);
        let weights = count.in_use();
        let adapters = adapters.zeros_like(model.device())?;
        let params = adapters.policy.as_ref().map_or(Vec::new(), |set| set.params());
        let optimizer = Optimizer::new(model.device(), &params, options.optimizer, options.weight_decay)?;
        let state = (count.in_use() - weights) as u64;
        let dropout = Dropout { p: options.lora_dropout, seed: options.seed, step: 0 };
        Ok(Counted {
            scorers: Scorers::of(objective, &model),
            extras: objective.weighting(),
            precision: options.precision,
            dropout: (options.lora_dropout > 0.0).then_some(dropout),
            count,
            model,
            adapters,
            params,
            _optimizer: optimizer,
            state,
        })
    }

    /// Whether the counted device computes in the memory of the host.
    pub(super) fn is_on_host(&self) -> bool {
        self.model.device().reads_host_memory()
    }

    /// Returns the number of layers of the model.
    pub(super) fn layers(&self) -> usize {
        self.model.config().num_hidden_layers
    }

    /// Returns the bytes that a run holds all the time: norms and biases in f32, adapters, the optimiser's state.
    pub(super) fn held(&self) -> u64 {
        self.count.in_use() as u64
    }

    /// Returns the bytes of the adapters and of the optimiser's state.
    pub(super) fn state(&self) -> u64 {
        self.state
    }

    /// Returns the bytes of the gradients of all parameters.
    pub(super) fn gradient_bytes(&self) -> u64 {
        self.params.iter().map(|param| (param.len() * size_of::<f32>()) as u64).sum()
    }

    /// Returns the bytes that the packing buffers of all threads take.
    pub(super) fn packing(&self, packed: Packed) -> u64 {
        packed.bytes(self.model.device().threads()) as u64
    }

    /// Returns the scoring that runs the counted passes.
    pub(super) fn scoring(&self) -> Scoring<'_> {
        Scoring {
            model: &self.model,
            adapters: self.adapters.clone(),
            scorers: self.scorers,
            precision: self.precision,
            extras: self.extras,
            // no cost depends on the temperature
            logp_temperature: 1.0,
            cache: None,
        }
    }

    /// Returns the cost of a pass over the rows of `forest`. The pass keeps what `layers_kept` layers need for the backward pass
    /// and recomputes the other layers. If no row has a gradient, there is no backward pass.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`] if no device could run these rows. Only a defect of this crate makes such rows.
    pub(super) fn pass(&self, forest: &Forest, layers_kept: usize, gradients: Gradients) -> Result<PassCost> {
        let held = self.held();
        self.count.restart();
        let cost = self.run(forest, layers_kept, gradients, held)?;
        Ok(PassCost { peak: self.count.peak() as u64 - held, packed: self.count.packed(), ..cost })
    }

    fn run(&self, forest: &Forest, layers_kept: usize, gradients: Gradients, held: u64) -> Result<PassCost> {
        let scoring = self.scoring();
        let mut grads = match gradients {
            Gradients::Fresh => ParamGrads::default(),
            Gradients::There if forest.plan.policy > 0 => ParamGrads::zeros(self.model.device(), &self.params)?,
            Gradients::There => ParamGrads::default(),
        };
        let before = self.held();
        let forward = self.forward(&scoring, forest, layers_kept)?;
        let operations = self.count.operations();
        let kept = self.held() - before;
        if forest.plan.policy > 0 {
            forward.backward([], &mut grads)?;
        }
        debug_assert!(self.held() >= held, "a pass gives back what it took");
        let backward = self.count.operations() - operations;
        Ok(PassCost { peak: 0, kept, packed: Packed::default(), forward: operations, backward })
    }

    fn forward(&self, scoring: &Scoring<'_>, forest: &Forest, layers_kept: usize) -> Result<Forward> {
        let mode = if forest.plan.policy > 0 { Mode::Record } else { Mode::Inference };
        let masks = match self.dropout.filter(|_| mode == Mode::Record) {
            Some(dropout) => Some(scoring.masks(dropout, &vec![0; forest.plan.policy + forest.plan.detached])?),
            None => None,
        };
        scoring.over(forest, mode, masks, layers_kept)
    }

    /// Counts the operations of [`Model::first_layer`] over the rows of `forest`.
    ///
    /// # Errors
    /// As [`Counted::pass`].
    pub(super) fn first_layer(&self, forest: &Forest) -> Result<LayerCost> {
        let device = self.model.device();
        self.count.restart();
        let ids = device.upload_indices("batch.ids", &forest.ids)?;
        let pass = self.model.pass(forest.plan.clone(), self.adapters.clone(), None, self.precision)?;
        let mut tape = Tape::new(device, pass, Mode::Record);
        let y = self.model.first_layer(&mut tape, &ids)?;
        let forward = self.count.operations();
        let dy = device.zeros::<f32>("gradient", y.input().len())?;
        tape.backward(&y, dy, &mut ParamGrads::default())?;
        Ok(LayerCost { forward, backward: self.count.operations() - forward })
    }
}
