//! Packing: the trees of one optimiser batch into micro-batches under a token budget.

/// Micro-batches of the trees of one optimiser batch, as indices into `tokens`: first fit, longest first.
///
/// `tokens` holds the length of each tree: prompt + every branch (for KTO the mismatched branch too). No micro-batch has more
/// than `budget` tokens, except that a tree larger than the budget is a micro-batch of its own. The result depends on the
/// lengths alone (ties go by index): micro-batches in the order in which they were opened, indices inside one ascending.
pub fn pack(tokens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..tokens.len()).collect();
    by_length.sort_by_key(|&i| (std::cmp::Reverse(tokens[i]), i));

    let mut room = Room::new(tokens.len(), budget);
    let mut bins: Vec<Vec<usize>> = Vec::new();
    for tree in by_length {
        let bin = room.first_for(tokens[tree]).unwrap_or(bins.len()); // larger than the budget: one of its own
        if bin == bins.len() {
            bins.push(Vec::new());
        }
        bins[bin].push(tree);
        room.take(bin, tokens[tree]);
    }
    bins.iter_mut().for_each(|trees| trees.sort_unstable());
    bins
}

/// Tokens left in each bin, those not yet opened included, under a tree of maxima: the first bin with enough room is found in
/// log(n) steps, where a batch of small rows and a small budget would make a search bin by bin quadratic.
struct Room {
    /// Node i has the children 2 i and 2 i + 1; the bins are the last `leaves` nodes.
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
        assert_eq!(pack(&[3, 9, 1, 6, 2], 10), vec![vec![1, 2], vec![0, 3], vec![4]]);
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

    /// First fit as its definition has it.
    fn bin_by_bin(tokens: &[usize], budget: usize) -> Vec<Vec<usize>> {
        let mut by_length: Vec<usize> = (0..tokens.len()).collect();
        by_length.sort_by_key(|&i| (std::cmp::Reverse(tokens[i]), i));
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
            prop_assert_eq!(pack(&tokens, budget), bin_by_bin(&tokens, budget));
        }

        #[test]
        fn every_tree_once_and_within_the_budget(tokens in prop::collection::vec(1usize..300, 0..60), budget in 1usize..500) {
            let bins = pack(&tokens, budget);
            let mut seen: Vec<usize> = bins.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tokens.len()).collect::<Vec<_>>());
            for bin in &bins {
                let sum: usize = bin.iter().map(|&i| tokens[i]).sum();
                prop_assert!(sum <= budget || bin.len() == 1);
            }
            // first fit: the first trees of two bins never fit together
            let largest = |bin: &Vec<usize>| bin.iter().map(|&i| tokens[i]).max().expect("no bin is empty");
            for pair in bins.windows(2) {
                let used: usize = pair[0].iter().map(|&i| tokens[i]).sum();
                prop_assert!(used + largest(&pair[1]) > budget);
            }
        }
    }
}
