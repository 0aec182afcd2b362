//! Low-rank updates of linear layers, as the model's forward pass applies them.

use crate::param::Param;
use align_kernels::{Device, KernelError};
use std::sync::Arc;

/// Which linear layer of a model, counted from 0 in the order of [`Model::linears`](crate::model::Model::linears).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearId(pub usize);

/// A low-rank update of a linear layer: `y += scaling * (x · lora_aᵀ) · lora_bᵀ`. Source: arXiv 2106.09685, eq. 3.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, in_features]`
    pub lora_a: Param,
    /// `[out_features, rank]`
    pub lora_b: Param,
    /// `alpha / rank`, or `alpha / sqrt(rank)` (rsLoRA)
    pub scaling: f32,
}

impl LowRank {
    /// Returns the rank: the number of rows of `lora_a` and of columns of `lora_b`.
    pub fn rank(&self) -> usize {
        self.lora_a.shape()[0]
    }
}

/// The parameters of one adapter: at most one low-rank update for each linear layer, and, for a reward model, a score head.
#[derive(Debug, Clone, Default)]
pub struct AdapterSet {
    by_linear: Vec<Option<LowRank>>,
    score_head: Option<Param>,
}

impl AdapterSet {
    /// Makes an adapter without updates for a model with `linears` linear layers.
    pub fn new(linears: usize) -> AdapterSet {
        AdapterSet { by_linear: vec![None; linears], score_head: None }
    }

    /// Puts an update on a linear layer.
    pub fn insert(&mut self, linear: LinearId, update: LowRank) {
        self.by_linear[linear.0] = Some(update);
    }

    /// Returns the update of a linear layer. `None` if it has none.
    pub fn get(&self, linear: LinearId) -> Option<&LowRank> {
        self.by_linear.get(linear.0).and_then(Option::as_ref)
    }

    /// Adds a score head, `[1, hidden_size]`, which reads the final norm's output. The adapter then belongs to a reward model.
    pub fn set_score_head(&mut self, head: Param) {
        self.score_head = Some(head);
    }

    /// Returns the score head. `None` unless this is the adapter of a reward model.
    pub fn score_head(&self) -> Option<&Param> {
        self.score_head.as_ref()
    }

    /// Returns all parameters, in the order of their ids.
    pub fn params(&self) -> Vec<Param> {
        let updates = self.iter().flat_map(|(_, update)| [update.lora_a.clone(), update.lora_b.clone()]);
        let mut params: Vec<Param> = updates.chain(self.score_head.clone()).collect();
        params.sort_by_key(Param::id);
        params
    }

    /// Makes an adapter of the same shape. `other` makes each new parameter from the parameter that it replaces.
    ///
    /// # Errors
    /// The errors of `other`.
    pub fn map(&self, other: impl Fn(&Param) -> Result<Param, KernelError>) -> Result<AdapterSet, KernelError> {
        let update = |update: &LowRank| {
            let (lora_a, lora_b) = (other(&update.lora_a)?, other(&update.lora_b)?);
            Ok(LowRank { lora_a, lora_b, scaling: update.scaling })
        };
        let by_linear = self.by_linear.iter().map(|of| of.as_ref().map(update).transpose());
        let by_linear = by_linear.collect::<Result<_, KernelError>>()?;
        Ok(AdapterSet { by_linear, score_head: self.score_head.as_ref().map(&other).transpose()? })
    }

    /// Returns all updates, with their layers.
    pub fn iter(&self) -> impl Iterator<Item = (LinearId, &LowRank)> {
        self.by_linear.iter().enumerate().filter_map(|(i, update)| Some((LinearId(i), update.as_ref()?)))
    }
}

/// The adapters of the policy and of the reference, which share a pass. `None` means the base without an adapter.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    /// Applies to policy rows, with and without a gradient.
    pub policy: Option<Arc<AdapterSet>>,
    /// Applies to reference rows.
    pub reference: Option<Arc<AdapterSet>>,
}

impl Adapters {
    /// Makes adapters of zeros on `device`, with the shapes of these adapters.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeros_like(&self, device: &Device) -> Result<Adapters, KernelError> {
        let of = |set: &Option<Arc<AdapterSet>>| -> Result<Option<Arc<AdapterSet>>, KernelError> {
            set.as_ref().map(|set| Ok(Arc::new(set.map(|param| param.zeros_like(device))?))).transpose()
        };
        Ok(Adapters { policy: of(&self.policy)?, reference: of(&self.reference)? })
    }
}
