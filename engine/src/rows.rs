//! Which rows of every `[rows, _]` activation belong to whom.

use crate::model::RopeVariant;
use crate::model::adapters::Adapters;
use align_kernels::attention::Segment;
use align_kernels::{Buffer, Device, Precision, Result, rope};
use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

/// Rows in this order: policy rows with a gradient, policy rows without one, reference rows. The adapter applies to the first
/// two, the backward pass covers the first: "what has a gradient" is a prefix slice in every op, and recomputation is the same
/// code with the other two empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlan {
    pub policy: usize,
    pub detached: usize,
    pub reference: usize,
    pub trees: Vec<SequenceTree>,
}

/// One prompt and the answers that share it: pairs 2 branches, K-way K, KTO 2 (its answer, and the mismatched one whose policy
/// rows are detached). A branch token sees the prompt and its own branch; positions restart at the prompt's end for each
/// branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceTree {
    pub prompt: Range<usize>,
    pub branches: Vec<Range<usize>>,
}

impl RowPlan {
    /// All rows.
    pub fn rows(&self) -> usize {
        self.policy + self.detached + self.reference
    }

    /// The plan of the policy rows with a gradient alone, for the backward pass.
    pub fn policy_only(&self) -> RowPlan {
        let with_gradient = |range: &Range<usize>| range.end <= self.policy;
        let trees = self
            .trees
            .iter()
            .filter(|tree| with_gradient(&tree.prompt) && tree.branches.iter().any(with_gradient))
            .map(|tree| SequenceTree {
                prompt: tree.prompt.clone(),
                branches: tree.branches.iter().filter(|branch| with_gradient(branch)).cloned().collect(),
            })
            .collect();
        RowPlan { policy: self.policy, detached: 0, reference: 0, trees }
    }

    /// The attention kernel's view of the trees.
    pub fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::new();
        for tree in &self.trees {
            if !tree.prompt.is_empty() {
                segments.push(Segment { rows: tree.prompt.clone(), prefix: 0..0 });
            }
            for branch in tree.branches.iter().filter(|branch| !branch.is_empty()) {
                let prefix = if tree.prompt.is_empty() { 0..0 } else { tree.prompt.clone() };
                segments.push(Segment { rows: branch.clone(), prefix });
            }
        }
        segments
    }

    /// Position of each row in its sequence.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.rows()];
        for tree in &self.trees {
            let runs = std::iter::once((0, &tree.prompt)).chain(tree.branches.iter().map(|b| (tree.prompt.len(), b)));
            for (first, rows) in runs {
                for (offset, row) in rows.clone().enumerate() {
                    positions[row] = (first + offset) as u32;
                }
            }
        }
        positions
    }

    /// Length of the sequence that each row belongs to, prompt included: what length-dependent rope goes by. The rows of a
    /// prompt take the longest of its branches; whoever builds the plan gives branches that differ in their angles trees of
    /// their own.
    pub fn sequence_lengths(&self) -> Vec<usize> {
        let mut lengths = vec![0; self.rows()];
        for tree in &self.trees {
            let longest = tree.branches.iter().map(|branch| branch.len()).max().unwrap_or(0);
            lengths[tree.prompt.clone()].fill(tree.prompt.len() + longest);
            for branch in &tree.branches {
                lengths[branch.clone()].fill(tree.prompt.len() + branch.len());
            }
        }
        lengths
    }
}

/// Cosines and sines of every row, for one kind of rope: `[rows, rotary_dim / 2]` each.
#[derive(Debug)]
pub struct RopeTable {
    pub rotary_dim: usize,
    pub cos: Buffer<f32>,
    pub sin: Buffer<f32>,
}

impl RopeTable {
    /// The table for rows at `positions`, row r with the angles `variants[variant_of[r]]`.
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
            variants: device.upload("rope.variants", variant_of)?.view(),
            inv_freq: device.upload("rope.inv_freq", &inv_freq)?.view(),
            scaling: device.upload("rope.scaling", &scaling)?.view(),
            cos: cos.view_mut(),
            sin: sin.view_mut(),
        }
        .run(device)?;
        Ok(RopeTable { rotary_dim: 2 * half, cos, sin })
    }
}

/// Dropout on the adapters' inputs: a function of the seed, the step, the layer and the token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability to drop, in (0, 1).
    pub p: f32,
    pub seed: u64,
    pub step: u64,
}

/// The dropout of a pass's policy rows.
#[derive(Debug, Clone)]
pub struct Masks {
    pub dropout: Dropout,
    /// `[policy + detached]`: the number of each row's token among those of the step. A mask goes with the token, so it is the
    /// same in whatever company, and in whichever row, a pass computes it.
    pub numbers: Rc<Buffer<u64>>,
}

/// What all ops of one forward pass share.
#[derive(Debug)]
pub struct Pass {
    pub plan: RowPlan,
    /// Of `plan`, made once.
    pub segments: Vec<Segment>,
    /// One for each kind of rope of the model.
    pub ropes: Vec<Rc<RopeTable>>,
    pub adapters: Adapters,
    /// None: nothing is dropped.
    pub masks: Option<Masks>,
    pub precision: Precision,
    policy_only: OnceCell<Rc<Pass>>,
}

impl Pass {
    /// A pass over the rows of `plan`.
    pub fn new(
        plan: RowPlan,
        ropes: Vec<Rc<RopeTable>>,
        adapters: Adapters,
        masks: Option<Masks>,
        precision: Precision,
    ) -> Rc<Pass> {
        let segments = plan.segments();
        Rc::new(Pass { plan, segments, ropes, adapters, masks, precision, policy_only: OnceCell::new() })
    }

    /// The pass over the policy rows with a gradient alone. Rope tables are shared: those rows are the first ones.
    pub fn policy_only(self: &Rc<Pass>) -> Rc<Pass> {
        if self.plan.policy == self.plan.rows() {
            return self.clone();
        }
        let restricted = || {
            let adapters = Adapters { policy: self.adapters.policy.clone(), reference: None };
            Pass::new(self.plan.policy_only(), self.ropes.clone(), adapters, self.masks.clone(), self.precision)
        };
        self.policy_only.get_or_init(restricted).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair (prompt of 3, answers of 2 and 1) with its reference rows behind it.
    fn pair() -> RowPlan {
        RowPlan {
            policy: 6,
            detached: 0,
            reference: 6,
            trees: vec![
                SequenceTree { prompt: 0..3, branches: vec![3..5, 5..6] },
                SequenceTree { prompt: 6..9, branches: vec![9..11, 11..12] },
            ],
        }
    }

    #[test]
    fn positions_restart_at_the_end_of_the_prompt() {
        assert_eq!(pair().positions(), [0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 4, 3]);
        assert_eq!(pair().sequence_lengths()[..6], [5, 5, 5, 5, 5, 4]);
    }

    #[test]
    fn the_backward_pass_sees_policy_rows_only() {
        let plan = pair().policy_only();
        assert_eq!(plan.rows(), 6);
        assert_eq!(plan.trees, pair().trees[..1]);
    }

    #[test]
    fn a_detached_branch_is_left_out_of_the_backward_pass() {
        let plan = RowPlan {
            policy: 4,
            detached: 2,
            reference: 0,
            trees: vec![SequenceTree { prompt: 0..2, branches: vec![2..4, 4..6] }],
        };
        assert_eq!(
            plan.policy_only().trees,
            [SequenceTree { prompt: 0..2, branches: std::iter::once(2..4).collect() }]
        );
        assert_eq!(plan.segments().len(), 3);
    }
}
