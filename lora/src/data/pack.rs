//! Packing: the trees of one optimiser batch into micro-batches under a token budget.

/// Micro-batches of the trees of one optimiser batch, as indices into `tokens`: first fit, longest first.
///
/// `tokens` holds the length of each tree: prompt + every branch (for KTO the mismatched branch too). No micro-batch has more
/// than `budget` tokens, except that a tree larger than the budget is a micro-batch of its own. The result depends on the
/// lengths alone (ties go by index): micro-batches in the order in which they were opened, indices inside one ascending.
pub fn pack(tokens: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..tokens.len()).collect();
    by_length.sort_by_key(|&i| (std::cmp::Reverse(tokens[i]), i));

    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new(); // (tokens left, trees)
    for tree in by_length {
        match bins.iter_mut().find(|(left, _)| *left >= tokens[tree]) {
            Some((left, trees)) => {
                *left -= tokens[tree];
                trees.push(tree);
            }
            // nothing left beside an oversized tree, not even for one of no tokens
            None => bins.push((budget.saturating_sub(tokens[tree]), vec![tree])),
        }
    }
    bins.into_iter()
        .map(|(_, mut trees)| {
            trees.sort_unstable();
            trees
        })
        .collect()
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

    proptest! {
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
