//! What all ops of one forward pass share: rows, rope tables, adapters, dropout, precision.

use crate::adapters::Adapters;
use crate::rows::RowPlan;
use align_kernels::attention::Layout;
use align_kernels::{Buffer, Device, Precision, Result, rope};
use std::cell::OnceCell;
use std::rc::Rc;

/// The frequencies of a position encoding for sequences of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeVariant {
    /// `[rotary_dim / 2]`: q and k at position `p` are rotated by the angles `p * inv_freq`
    pub inv_freq: Vec<f32>,
    /// Multiplies cosine and sine.
    pub scaling: f32,
}

/// Cosines and sines of every row, for one kind of rope: `[rows, rotary_dim / 2]` each.
#[derive(Debug)]
pub struct RopeTable {
    pub(crate) rotary_dim: usize,
    pub(crate) cos: Buffer<f32>,
    pub(crate) sin: Buffer<f32>,
}

impl RopeTable {
    /// Makes the table for rows at `positions`. Row r has the frequencies `variants[variant_of[r]]`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn new(device: &Device, positions: &[u32], variant_of: &[u32], variants: &[RopeVariant]) -> Result<RopeTable> {
        let rows = positions.len();
        let half = variants[0].inv_freq.len();
        let inv_freq: Vec<f32> = variants.iter().flat_map(|variant| variant.inv_freq.iter().copied()).collect();
        let scaling: Vec<f32> = variants.iter().map(|variant| variant.scaling).collect();
        let mut cos = device.alloc("rope.cos", rows * half)?;
        let mut sin = device.alloc("rope.sin", rows * half)?;
        rope::Tables {
            rows,
            half,
            positions: device.upload("rope.positions", positions)?.view(),
            variants: device.upload_indices("rope.variants", variant_of)?.view(),
            inv_freq: device.upload("rope.inv_freq", &inv_freq)?.view(),
            scaling: device.upload("rope.scaling", &scaling)?.view(),
            cos: cos.view_mut(),
            sin: sin.view_mut(),
        }
        .run(device)?;
        Ok(RopeTable { rotary_dim: 2 * half, cos, sin })
    }
}

/// Dropout on the adapters' inputs. Which elements are dropped depends only on the seed, the step, the layer and the token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that an element is dropped, in (0, 1).
    pub p: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Step of the optimiser. The masks change at every step.
    pub step: u64,
}

/// The dropout of a pass's policy rows.
#[derive(Debug, Clone)]
pub struct Masks {
    /// Probability, seed and step of the dropout, the same for all policy rows.
    pub dropout: Dropout,
    /// `[policy + detached]`: the number of each row's token within the step. A mask belongs to a token: it depends neither on
    /// the token's row nor on the other rows of the pass.
    pub numbers: Rc<Buffer<u64>>,
}

/// What all ops of one forward pass share.
#[derive(Debug)]
pub struct Pass {
    pub(crate) plan: RowPlan,
    /// Which rows of `plan` attend to which, in the form that the attention kernels read.
    pub(crate) layout: Layout,
    /// One table for each kind of rope of the model.
    pub(crate) ropes: Vec<Rc<RopeTable>>,
    pub(crate) adapters: Adapters,
    /// `None` if nothing is dropped.
    pub(crate) masks: Option<Masks>,
    pub(crate) precision: Precision,
    policy_only: OnceCell<Rc<Pass>>,
}

impl Pass {
    /// Makes a pass over the rows of `plan`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::Size`] if ranges of the plan overlap, or go beyond its rows.
    pub fn new(
        device: &Device,
        plan: RowPlan,
        ropes: Vec<Rc<RopeTable>>,
        adapters: Adapters,
        masks: Option<Masks>,
        precision: Precision,
    ) -> Result<Rc<Pass>> {
        let layout = Layout::new(device, plan.rows(), plan.segments())?;
        Ok(Rc::new(Pass { plan, layout, ropes, adapters, masks, precision, policy_only: OnceCell::new() }))
    }

    /// Returns the pass over only the policy rows with a gradient. It shares the rope tables, because those rows are the first
    /// ones.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn policy_only(self: &Rc<Pass>, device: &Device) -> Result<Rc<Pass>> {
        if self.plan.policy == self.plan.rows() {
            return Ok(self.clone());
        }
        if let Some(known) = self.policy_only.get() {
            return Ok(known.clone());
        }
        let adapters = Adapters { policy: self.adapters.policy.clone(), reference: None };
        let (plan, ropes, masks) = (self.plan.policy_only(), self.ropes.clone(), self.masks.clone());
        let restricted = Pass::new(device, plan, ropes, adapters, masks, self.precision)?;
        Ok(self.policy_only.get_or_init(|| restricted).clone())
    }
}
