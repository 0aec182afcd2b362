//! Which rows of every `[rows, _]` activation belong to the policy, and which to the reference.

use align_kernels::attention::Segment;
use std::ops::Range;

/// The number of rows of each kind. The rows of a pass come in the order of these fields. So the rows with a gradient are the
/// first ones in every op, and recomputation runs the same code on a plan without detached and reference rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlan {
    /// Policy rows with a gradient: those that the backward pass covers.
    pub policy: usize,
    /// Policy rows without a gradient. The policy's adapter applies to them too.
    pub detached: usize,
    /// Rows of the reference, without a gradient.
    pub reference: usize,
    /// Which rows see each other.
    pub trees: Vec<SequenceTree>,
}

/// One prompt and the answers that share it. A pair has 2 branches, a K-way row K, a KTO row 2 (its own answer, and the
/// mismatched one, whose policy rows are detached). A branch token sees the prompt and its own branch; positions restart at the
/// prompt's end for each branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceTree {
    /// Rows of the prompt; may be empty.
    pub prompt: Range<usize>,
    /// Rows of each answer.
    pub branches: Vec<Range<usize>>,
}

impl RowPlan {
    /// Returns the total number of rows.
    pub fn rows(&self) -> usize {
        self.policy + self.detached + self.reference
    }

    /// Returns the plan of only the policy rows with a gradient, for the backward pass.
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

    /// Returns the trees as the segments that the attention kernel reads.
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

    /// Returns the position of each row in its sequence.
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

    /// Returns the length of the sequence that each row belongs to, prompt included, for ropes that depend on it. The rows of a
    /// prompt count as part of the sequence with the longest branch. So if a branch needs other angles for the prompt, it must be
    /// in another tree.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the plan of a pair (prompt of 3, answers of 2 and 1), whose reference rows follow its policy rows.
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
