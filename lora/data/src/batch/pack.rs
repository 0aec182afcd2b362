//! Packs the trees of one optimiser batch into micro-batches under a token budget.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Packs the trees of one optimiser batch into micro-batches. Returns the indices into `tokens` of each micro-batch. First fit,
/// longest tree first, decides how many micro-batches there are. Then each tree, longest first, goes into the emptiest
/// micro-batch, which makes their sizes even. This second packing is used unless one of its micro-batches exceeds the budget or
/// the fullest micro-batch of first fit.
///
/// `tokens` holds the length of each tree: prompt + every branch (for KTO the mismatched branch too). No micro-batch has more
/// than `budget` tokens, except that a tree larger than the budget gets its own micro-batch. The result depends only on the
/// lengths; ties go by index. The micro-batches are ordered by their longest tree, longest first. The indices inside a
/// micro-batch ascend.
///
/// Even micro-batches need the least memory, since the largest one decides how much is needed. And none of them is so small that
/// all weights are read for a few rows.
pub fn pack(tokens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..tokens.len()).collect();
    by_length.sort_by_key(|&i| (Reverse(tokens[i]), i));

    let mut bins = first_fit(tokens, &by_length, budget);
    let fullest = bins.iter().map(|bin| bin.iter().map(|&tree| tokens[tree]).sum()).max().unwrap_or(0);
    if let Some(even) = evenly(tokens, &by_length, bins.len(), budget.min(fullest)) {
        bins = even;
    }
    bins.iter_mut().for_each(|trees| trees.sort_unstable());
    bins
}

/// Puts each tree into the emptiest of `count` bins. `None` if a bin would have more than `most` tokens. Source: Graham, "Bounds
/// on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969): the fullest bin has at most 4/3 of the tokens of the
/// fullest bin in the best packing.
fn evenly(tokens: &[usize], by_length: &[usize], count: usize, most: usize) -> Option<Vec<Vec<usize>>> {
    let mut bins: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut emptiest: BinaryHeap<Reverse<(usize, usize)>> = (0..count).map(|bin| Reverse((0, bin))).collect();
    for &tree in by_length {
        let Reverse((used, bin)) = emptiest.pop()?;
        let used = used + tokens[tree];
        if used > most {
            return None;
        }
        bins[bin].push(tree);
        emptiest.push(Reverse((used, bin)));
    }
    Some(bins)
}

/// Puts each tree into the first bin that has room for it.
fn first_fit(tokens: &[usize], by_length: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut room = Room::new(tokens.len(), budget);
    let mut bins: Vec<Vec<usize>> = Vec::new();
    for &tree in by_length {
        let bin = room.first_for(tokens[tree]).unwrap_or(bins.len()); // a tree larger than the budget gets its own bin
        if bin == bins.len() {
            bins.push(Vec::new());
        }
        bins[bin].push(tree);
        room.take(bin, tokens[tree]);
    }
    bins
}

/// The number of tokens that still fit into each bin, opened or not, in a tree of maxima. The tree finds the first bin with enough
/// room in log(n) steps. A search bin by bin would take quadratic time if a batch has many bins.
struct Room {
    /// The largest room below each node. Node i has the children 2 i and 2 i + 1; the last `leaves` nodes are the bins.
    most: Vec<usize>,
    leaves: usize,
}

impl Room {
    fn new(bins: usize, budget: usize) -> Room {
        let leaves = bins.next_power_of_two();
        Room { most: vec![budget; 2 * leaves], leaves }
    }

    fn first_for(&self, tokens: usize) -> Option<usize> {
        if self.most[1] < tokens {
            return None;
        }
        let mut node = 1;
        while node < self.leaves {
            node = if self.most[2 * node] >= tokens { 2 * node } else { 2 * node + 1 };
        }
        Some(node - self.leaves)
    }

    fn take(&mut self, bin: usize, tokens: usize) {
        let mut node = self.leaves + bin;
        self.most[node] = self.most[node].saturating_sub(tokens);
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn longest_first_into_the_first_bin_that_fits() {
        // the emptiest bin first would make 3 + 2 + 2, beyond the budget, and 3 + 2
        assert_eq!(pack(&[3, 3, 2, 2, 2], 6), vec![vec![0, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn as_even_as_they_come() {
        assert_eq!(pack(&[9, 8, 2, 1], 17), vec![vec![0, 3], vec![1, 2]]);
        assert_eq!(pack(&[3, 9, 1, 6, 2], 10), vec![vec![1], vec![3], vec![0, 2, 4]]);
    }

    #[test]
    fn a_tree_larger_than_the_budget_is_alone() {
        assert_eq!(pack(&[5, 40, 5], 10), vec![vec![1], vec![0, 2]]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn many_trees_that_share_no_bin_are_packed_too() {
        let tokens: Vec<usize> = (0..300_000).map(|i| 51 + i % 49).collect();
        assert_eq!(pack(&tokens, 100).len(), tokens.len());
    }

    /// First fit by its definition, with a search bin by bin.
    fn bin_by_bin(tokens: &[usize], budget: usize) -> Vec<Vec<usize>> {
        let mut by_length: Vec<usize> = (0..tokens.len()).collect();
        by_length.sort_by_key(|&i| (Reverse(tokens[i]), i));
        let mut bins: Vec<Vec<usize>> = Vec::new();
        for tree in by_length {
            let used = |bin: &Vec<usize>| bin.iter().map(|&i| tokens[i]).sum::<usize>();
            match bins.iter_mut().find(|bin| used(bin) + tokens[tree] <= budget) {
                Some(bin) => bin.push(tree),
                None => bins.push(vec![tree]),
            }
        }
        bins.iter_mut().for_each(|bin| bin.sort_unstable());
        bins
    }

    proptest! {
        #[test]
        fn the_first_bin_is_found_as_bin_by_bin(tokens in prop::collection::vec(1usize..300, 0..60), budget in 0usize..500) {
            let mut by_length: Vec<usize> = (0..tokens.len()).collect();
            by_length.sort_by_key(|&i| (Reverse(tokens[i]), i));
            let mut bins = first_fit(&tokens, &by_length, budget);
            bins.iter_mut().for_each(|bin| bin.sort_unstable());
            prop_assert_eq!(bins, bin_by_bin(&tokens, budget));
        }

        #[test]
        fn every_tree_once_and_within_the_budget(tokens in prop::collection::vec(1usize..300, 0..60), budget in 1usize..500) {
            let bins = pack(&tokens, budget);
            let mut seen: Vec<usize> = bins.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tokens.len()).collect::<Vec<_>>());
            let used = |bin: &Vec<usize>| bin.iter().map(|&i| tokens[i]).sum::<usize>();
            for bin in &bins {
                prop_assert!(used(bin) <= budget || bin.len() == 1);
            }
            // as many bins as first fit makes, and the fullest is no fuller
            let first_fit = bin_by_bin(&tokens, budget);
            prop_assert_eq!(bins.len(), first_fit.len());
            prop_assert!(bins.iter().map(used).max() <= first_fit.iter().map(used).max());
        }
    }
}
