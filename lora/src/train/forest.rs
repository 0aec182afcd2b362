//! Lays out encoded rows as the rows of one forward pass: trees of prompts and answers, for the policy and the reference.

use align_data::Answer;
use align_engine::rows::{RowPlan, SequenceTree};
use std::ops::Range;

/// A prompt and the answers that share it.
#[derive(Debug, Clone)]
pub struct Tree<'a> {
    /// Token ids.
    pub prompt: &'a [u32],
    /// The answers. [`Forest::answers`] has them in this order.
    pub branches: Vec<Branch<'a>>,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a> {
    /// Token ids, without those that were cut off.
    pub ids: &'a [u32],
    /// Ranges of `ids` that the model reads but that are not scored, in ascending order. Most answers have none.
    pub unscored: &'a [Range<usize>],
    /// Whether it has a gradient.
    pub role: Role,
}

impl<'a> Branch<'a> {
    /// Makes a branch from the kept tokens of an answer.
    pub fn of(answer: &'a Answer, role: Role) -> Branch<'a> {
        Branch { ids: answer.kept_ids(), unscored: &answer.unscored, role }
    }

    /// Returns the ranges of `ids` that are not scored. All are within `ids` and none is empty.
    pub fn gaps(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        // in an answer that was cut, ranges may reach beyond its end
        let end = self.ids.len();
        let within = move |gap: &Range<usize>| gap.start.min(end)..gap.end.min(end);
        self.unscored.iter().map(within).filter(|gap| !gap.is_empty())
    }

    /// Returns the number of tokens that are scored.
    pub fn scored_tokens(&self) -> usize {
        self.ids.len() - self.gaps().map(|gap| gap.len()).sum::<usize>()
    }

    /// Makes a branch with every token scored.
    pub fn all_scored(ids: &'a [u32], role: Role) -> Branch<'a> {
        Branch { ids, unscored: &[], role }
    }
}

/// Whether the backward pass goes through an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Scored by the policy and differentiated.
    Gradient,
    /// Scored by the policy but not differentiated, such as all answers of an evaluation, or KTO's mismatched answers.
    Detached,
}

/// Which models score the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scorers {
    /// The policy alone.
    Policy,
    /// Policy and reference, in one pass.
    PolicyAndReference,
    /// The policy's score head. It gives one number per answer, at the last token that is not `pad`, as transformers' sequence
    /// classifiers do.
    Reward {
        /// The model's pad token, if it has one.
        pad: Option<u32>,
    },
}

/// The rows of one forward pass, and the places of each answer's log-probs among its results.
#[derive(Debug, Clone)]
pub struct Forest {
    /// Which rows have a gradient, and which trees they form.
    pub plan: RowPlan,
    /// `[rows]` token ids
    pub ids: Vec<u32>,
    /// For each row, the index of its tree among the given trees, and the number of its token in that tree. Token numbers count
    /// first through the prompt, then through the answers.
    pub tokens: Vec<(usize, usize)>,
    /// Rows that predict a scored token, or with [`Scorers::Reward`] rows that are scored. They are in this order: the policy's
    /// answers with a gradient, its detached answers, the reference's answers.
    pub scored_rows: Vec<u32>,
    /// The token that each scored row must predict. Empty with [`Scorers::Reward`].
    pub targets: Vec<u32>,
    /// How many of the scored rows have a gradient.
    pub scored_with_gradient: usize,
    /// The answers, tree by tree, in the order in which they were given.
    pub answers: Vec<Scored>,
    pub(super) scorers: Scorers,
}

/// Places of one answer's scored tokens among the scored rows. With [`Scorers::Reward`], the place of its one scored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// Places for the policy.
    pub policy: Range<usize>,
    /// Places for the reference. `None` if the reference does not score the answer.
    pub reference: Option<Range<usize>>,
}

/// A tree, or its prompt with some of its answers. RoPE rotates all these answers alike.
struct Part<'a> {
    /// Place among the trees.
    tree: usize,
    prompt: &'a [u32],
    branches: Vec<PartBranch<'a>>,
}

/// An answer of a part.
#[derive(Clone, Copy)]
struct PartBranch<'a> {
    /// Place among all answers.
    place: usize,
    /// Number of tokens in the tree before this answer.
    before: usize,
    branch: Branch<'a>,
}

impl Forest {
    /// Lays out `trees`. `same_rope(a, b)` says whether sequences of `a` and `b` tokens are rotated alike. Answers that are
    /// rotated differently do not share a prompt.
    pub fn new(trees: &[Tree<'_>], scorers: Scorers, same_rope: impl Fn(usize, usize) -> bool) -> Forest {
        Forest::with_references(trees, scorers, |_| scorers == Scorers::PolicyAndReference, same_rope)
    }

    /// Lays out `trees` as [`Forest::new`] does. `referenced(i)` says whether the reference scores answer `i`, counted over all
    /// trees.
    pub fn with_references(
        trees: &[Tree<'_>],
        scorers: Scorers,
        referenced: impl Fn(usize) -> bool,
        same_rope: impl Fn(usize, usize) -> bool,
    ) -> Forest {
        let parts = split_by_rope(trees, same_rope);
        let n_answers = trees.iter().map(|tree| tree.branches.len()).sum();
        let mut layout = Layout::default();
        let mut policy = vec![0..0; n_answers];
        let mut reference = vec![None; n_answers];
        let empty = SequenceTree { prompt: 0..0, branches: Vec::new() };
        let mut trees = vec![empty.clone(); parts.len()];

        // first the policy's answers with a gradient, after the prompts of their trees; then the policy's detached answers
        let mut with_gradient = 0;
        for role in [Role::Gradient, Role::Detached] {
            for (part, tree) in parts.iter().zip(&mut trees) {
                for answer in part.branches.iter().filter(|answer| answer.branch.role == role) {
                    policy[answer.place] = layout.add(scorers, part, answer, tree);
                }
            }
            if role == Role::Gradient {
                with_gradient = layout.ids.len();
                layout.scored_with_gradient = layout.scored_rows.len();
            }
        }
        let policy_rows = layout.ids.len();

        for part in &parts {
            let mut tree = empty.clone();
            for answer in part.branches.iter().filter(|answer| referenced(answer.place)) {
                reference[answer.place] = Some(layout.add(scorers, part, answer, &mut tree));
            }
            if !tree.branches.is_empty() {
                trees.push(tree);
            }
        }
        let plan = RowPlan {
            policy: with_gradient,
            detached: policy_rows - with_gradient,
            reference: layout.ids.len() - policy_rows,
            trees,
        };
        let answers =
            policy.into_iter().zip(reference).map(|(policy, reference)| Scored { policy, reference }).collect();
        let Layout { ids, tokens, scored_rows, targets, scored_with_gradient } = layout;
        Forest { plan, ids, tokens, scored_rows, targets, scored_with_gradient, answers, scorers }
    }

    /// Returns the forest without the rows of the reference.
    pub fn without_reference(&self) -> Forest {
        let RowPlan { policy, detached, ref trees, .. } = self.plan;
        let rows = policy + detached;
        let scored = self.scored_rows.partition_point(|row| (*row as usize) < rows);
        let trees = trees.iter().filter(|tree| tree.prompt.start < rows).cloned().collect();
        Forest {
            plan: RowPlan { policy, detached, reference: 0, trees },
            ids: self.ids[..rows].to_vec(),
            tokens: self.tokens[..rows].to_vec(),
            scored_rows: self.scored_rows[..scored].to_vec(),
            // with a reward model, `targets` is empty
            targets: self.targets.iter().take(scored).copied().collect(),
            scored_with_gradient: self.scored_with_gradient,
            answers: self.answers.iter().map(|answer| Scored { reference: None, ..answer.clone() }).collect(),
            scorers: self.scorers,
        }
    }
}

#[derive(Default)]
struct Layout {
    ids: Vec<u32>,
    tokens: Vec<(usize, usize)>,
    scored_rows: Vec<u32>,
    targets: Vec<u32>,
    scored_with_gradient: usize,
}

impl Layout {
    /// Lays out an answer of `part` in `tree`. Before the first answer of a tree, it lays out the tree's prompt. Returns the places
    /// of the answer's scored rows.
    fn add(
        &mut self,
        scorers: Scorers,
        part: &Part<'_>,
        answer: &PartBranch<'_>,
        tree: &mut SequenceTree,
    ) -> Range<usize> {
        if tree.branches.is_empty() {
            tree.prompt = self.place(part.prompt, part.tree, 0);
        }
        let rows = self.place(answer.branch.ids, part.tree, answer.before);
        let scored = self.score(scorers, &tree.prompt, &rows, answer.branch);
        tree.branches.push(rows);
        scored
    }

    /// Adds a row for each of `ids`. In tree number `tree`, these tokens have the numbers from `first` on. Returns the rows.
    fn place(&mut self, ids: &[u32], tree: usize, first: usize) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.tokens.extend((first..).take(ids.len()).map(|token| (tree, token)));
        start..self.ids.len()
    }

    /// Adds the scored rows of an answer and returns their places. The row before a token predicts it; the prompt's last row
    /// predicts the first token. A reward model scores one row.
    fn score(
        &mut self,
        scorers: Scorers,
        prompt: &Range<usize>,
        answer: &Range<usize>,
        branch: Branch<'_>,
    ) -> Range<usize> {
        let start = self.scored_rows.len();
        if let Scorers::Reward { pad } = scorers {
            let mut from_the_end = answer.clone().rev().chain(prompt.clone().rev());
            let last = from_the_end.find(|&row| Some(self.ids[row]) != pad);
            // if every token is `pad`, transformers scores the first token
            self.scored_rows.push(last.unwrap_or(prompt.start) as u32);
            return start..start + 1;
        }
        let predicting = std::iter::once(prompt.end - 1).chain(answer.clone());
        let mut gaps = branch.unscored.iter().peekable();
        for (token, (row, &id)) in predicting.zip(branch.ids).enumerate() {
            while gaps.next_if(|gap| gap.end <= token).is_some() {}
            if gaps.peek().is_some_and(|gap| gap.contains(&token)) {
                continue;
            }
            self.scored_rows.push(row as u32);
            self.targets.push(id);
        }
        start..self.scored_rows.len()
    }
}

/// Splits trees into parts whose answers are all rotated alike.
fn split_by_rope<'a>(trees: &[Tree<'a>], same_rope: impl Fn(usize, usize) -> bool) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::with_capacity(trees.len());
    let mut place = 0;
    for (index, tree) in trees.iter().enumerate() {
        let first = parts.len();
        let mut before = tree.prompt.len();
        for &branch in &tree.branches {
            let length = |branch: &Branch<'_>| tree.prompt.len() + branch.ids.len();
            let alike = |part: &Part<'_>| same_rope(length(&part.branches[0].branch), length(&branch));
            let answer = PartBranch { place, before, branch };
            match parts[first..].iter().position(alike) {
                Some(found) => parts[first + found].branches.push(answer),
                None => parts.push(Part { tree: index, prompt: tree.prompt, branches: vec![answer] }),
            }
            place += 1;
            before += branch.ids.len();
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(ids: &[u32], role: Role) -> Branch<'_> {
        Branch::all_scored(ids, role)
    }

    /// Tokens 1 and 2 of the answer belong to a turn that is not learned.
    #[test]
    fn what_is_not_scored_is_read_all_the_same() {
        let gap = 1..3;
        let branch = Branch { ids: &[4, 5, 6, 7], unscored: std::slice::from_ref(&gap), role: Role::Gradient };
        let sequence = Tree { prompt: &[1, 2], branches: vec![branch] };
        let forest = Forest::new(&[sequence], Scorers::PolicyAndReference, |_, _| true);
        assert_eq!(forest.ids, [1, 2, 4, 5, 6, 7, 1, 2, 4, 5, 6, 7]);
        assert_eq!(forest.scored_rows, [1, 4, 7, 10]);
        assert_eq!(forest.targets, [4, 7, 4, 7]);
        assert_eq!(forest.scored_with_gradient, 2);
        assert_eq!(forest.answers, [Scored { policy: 0..2, reference: Some(2..4) }]);
    }

    #[test]
    fn a_pair_shares_its_prompt_and_has_a_reference_behind_it() {
        let pair =
            Tree { prompt: &[1, 2, 3], branches: vec![branch(&[4, 5], Role::Gradient), branch(&[6], Role::Gradient)] };
        let forest = Forest::new(&[pair], Scorers::PolicyAndReference, |_, _| true);
        assert_eq!(forest.ids, [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]);
        assert_eq!((forest.plan.policy, forest.plan.detached, forest.plan.reference), (6, 0, 6));
        assert_eq!(forest.scored_rows, [2, 3, 2, 8, 9, 8]);
        assert_eq!(forest.targets, [4, 5, 6, 4, 5, 6]);
        assert_eq!(forest.scored_with_gradient, 3);
        assert_eq!(forest.answers[1], Scored { policy: 2..3, reference: Some(5..6) });
    }

    #[test]
    fn the_reference_scores_the_answers_that_it_is_asked_for() {
        let trees = [
            Tree { prompt: &[1, 2], branches: vec![branch(&[3], Role::Gradient), branch(&[4, 5], Role::Gradient)] },
            Tree { prompt: &[6], branches: vec![branch(&[7], Role::Gradient)] },
        ];
        let forest = Forest::with_references(&trees, Scorers::PolicyAndReference, |answer| answer == 1, |_, _| true);
        assert_eq!(forest.ids, [1, 2, 3, 4, 5, 6, 7, 1, 2, 4, 5]);
        assert_eq!(forest.plan.reference, 4);
        let SequenceTree { prompt, branches } = &forest.plan.trees[2];
        assert_eq!((prompt.clone(), branches.len(), branches[0].clone()), (7..9, 1, 9..11));
        let references: Vec<_> = forest.answers.iter().map(|answer| answer.reference.clone()).collect();
        assert_eq!(references, [None, Some(4..6), None]);

        let (without, policy) = (forest.without_reference(), Forest::new(&trees, Scorers::Policy, |_, _| true));
        assert_eq!((without.plan, without.ids, without.tokens), (policy.plan, policy.ids, policy.tokens));
        assert_eq!((without.scored_rows, without.targets), (policy.scored_rows, policy.targets));
        assert_eq!(without.answers, policy.answers);
    }

    #[test]
    fn a_reward_model_scores_the_last_token_that_is_no_padding() {
        let pair =
            Tree { prompt: &[1, 2], branches: vec![branch(&[4, 0], Role::Gradient), branch(&[0], Role::Gradient)] };
        let scored = |pad| {
            let forest = Forest::new(std::slice::from_ref(&pair), Scorers::Reward { pad }, |_, _| true);
            assert_eq!(forest.ids, [1, 2, 4, 0, 0]);
            assert_eq!((forest.targets.len(), forest.scored_with_gradient), (0, 2));
            assert_eq!(forest.answers[1], Scored { policy: 1..2, reference: None });
            forest.scored_rows
        };
        assert_eq!(scored(None), [3, 4]);
        assert_eq!(scored(Some(0)), [2, 1], "an answer of padding alone has the score of its prompt");
        let padding = Tree { prompt: &[0, 0], branches: vec![branch(&[0], Role::Detached)] };
        assert_eq!(Forest::new(&[padding], Scorers::Reward { pad: Some(0) }, |_, _| true).scored_rows, [0]);
    }

    #[test]
    fn a_mismatched_answer_is_a_detached_branch() {
        let row =
            Tree { prompt: &[1, 2], branches: vec![branch(&[3], Role::Gradient), branch(&[4, 5], Role::Detached)] };
        let forest = Forest::new(&[row], Scorers::Policy, |_, _| true);
        assert_eq!((forest.plan.policy, forest.plan.detached), (3, 2));
        assert_eq!(forest.plan.trees, [SequenceTree { prompt: 0..2, branches: vec![2..3, 3..5] }]);
        assert_eq!(forest.tokens, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]);
        assert_eq!(forest.scored_rows, [1, 1, 3]);
        assert_eq!(forest.scored_with_gradient, 1);
    }

    #[test]
    fn a_tree_without_a_gradient_has_a_detached_prompt() {
        let rows = [
            Tree { prompt: &[1], branches: vec![branch(&[2], Role::Detached)] },
            Tree { prompt: &[3], branches: vec![branch(&[4], Role::Gradient)] },
        ];
        let forest = Forest::new(&rows, Scorers::Policy, |_, _| true);
        assert_eq!(forest.ids, [3, 4, 1, 2]);
        assert_eq!(forest.tokens, [(1, 0), (1, 1), (0, 0), (0, 1)]);
        assert_eq!(forest.plan.policy, 2);
        assert_eq!(
            forest.answers,
            [Scored { policy: 1..2, reference: None }, Scored { policy: 0..1, reference: None }]
        );
    }

    #[test]
    fn answers_that_are_rotated_differently_do_not_share_a_prompt() {
        let pair =
            Tree { prompt: &[1, 2], branches: vec![branch(&[3; 6], Role::Gradient), branch(&[4], Role::Gradient)] };
        let forest = Forest::new(&[pair], Scorers::Policy, |a, b| (a > 4) == (b > 4));
        assert_eq!(forest.ids, [1, 2, 3, 3, 3, 3, 3, 3, 1, 2, 4]);
        assert_eq!(
            forest.tokens[7..],
            [(0, 7), (0, 0), (0, 1), (0, 8)],
            "a prompt that is there twice is the same one"
        );
        assert_eq!(forest.plan.trees.len(), 2);
        assert_eq!(forest.answers[1].policy, 6..7);
    }
}
