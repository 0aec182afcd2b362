//! Holds out rows for evaluation, by seed and prompt: no prompt is on both sides.

use std::collections::{HashMap, HashSet};

use super::error::DataError;
use crate::batch::order::keyed;

/// Returns for each row whether it is held out: about `fraction` of the rows, in whole groups of the same prompt. The result
/// depends only on the groups, the fraction and the seed. At least one row is held out, and at least one is not.
///
/// Groups are taken in the order of a hash of (seed, group). A group with more rows than are still wanted is skipped. So at most
/// `fraction` of the rows, rounded, is held out, unless the smallest group alone is larger. Other groups do not change the hash
/// of a group, so most rows stay on their side when data is added.
///
/// # Errors
/// [`DataError::OnePrompt`] if all rows have the same prompt.
pub(crate) fn held_out(groups: &[u32], fraction: f64, seed: u64) -> Result<Vec<bool>, DataError> {
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    for group in groups {
        *sizes.entry(*group).or_default() += 1;
    }
    if sizes.len() < 2 {
        return Err(DataError::OnePrompt { rows: groups.len() });
    }
    let mut order: Vec<(u64, u32)> = sizes.keys().map(|&group| (keyed(seed, u64::from(group)), group)).collect();
    order.sort_unstable();
    let wanted = (fraction * groups.len() as f64).round() as usize;
    let mut left = wanted.clamp(1, groups.len() - 1);
    let mut taken = HashSet::new();
    for (_, group) in &order {
        let size = sizes[group];
        if size <= left {
            taken.insert(*group);
            left -= size;
        }
    }
    if taken.is_empty() {
        // no group is small enough: take the first of the smallest
        let smallest = order.iter().min_by_key(|(_, group)| sizes[group]).expect("there are two");
        taken.insert(smallest.1);
    }
    Ok(groups.iter().map(|group| taken.contains(group)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_prompt_cannot_be_split() {
        assert!(matches!(held_out(&[3, 3, 3], 0.5, 1), Err(DataError::OnePrompt { rows: 3 })));
        let out = held_out(&[3, 3, 4], 0.9, 1).unwrap();
        assert!(out == [true, true, false] || out == [false, false, true], "{out:?}");
        assert_eq!(held_out(&[3, 3, 4, 4, 4], 0.01, 1).unwrap(), [true, true, false, false, false]);
    }

    /// A change of the hash would move rows between the sides of a resumed run. The expected places are written down, so that such
    /// a change fails here.
    #[test]
    fn the_split_is_a_function_of_the_seed() {
        let groups: Vec<u32> = (0..12).collect();
        let places = |seed| -> Vec<usize> {
            held_out(&groups, 0.25, seed).unwrap().iter().enumerate().filter(|(_, out)| **out).map(|(i, _)| i).collect()
        };
        assert_eq!(places(42), PINNED);
        assert_ne!(places(42), places(43));
    }
    const PINNED: [usize; 3] = [4, 6, 9];

    proptest! {
        #[test]
        fn no_prompt_stands_on_both_sides(groups in prop::collection::vec(0u32..20, 2..60), fraction in 0.001f64..0.999, seed: u64) {
            let distinct: HashSet<u32> = groups.iter().copied().collect();
            prop_assume!(distinct.len() > 1);
            let out = held_out(&groups, fraction, seed).unwrap();
            prop_assert_eq!(&out, &held_out(&groups, fraction, seed).unwrap());
            let side = |wanted: bool| -> HashSet<u32> {
                groups.iter().zip(&out).filter(|(_, out)| **out == wanted).map(|(group, _)| *group).collect()
            };
            prop_assert!(side(true).is_disjoint(&side(false)));
            prop_assert!(!side(true).is_empty() && !side(false).is_empty());
            let n = out.iter().filter(|out| **out).count();
            let wanted = ((fraction * groups.len() as f64).round() as usize).max(1);
            let smallest = distinct.iter().map(|g| groups.iter().filter(|x| *x == g).count()).min().unwrap();
            prop_assert!(n <= wanted.max(smallest), "{} of {} for {}", n, groups.len(), fraction);
        }

        /// If every row has a different prompt, exactly the rounded fraction is held out, with at least one row on each side.
        #[test]
        fn single_rows_are_split_exactly(n in 2usize..300, fraction in 0.01f64..0.99, seed: u64) {
            let groups: Vec<u32> = (0..n as u32).collect();
            let out = held_out(&groups, fraction, seed).unwrap().iter().filter(|out| **out).count();
            prop_assert_eq!(out, ((fraction * n as f64).round() as usize).clamp(1, n - 1));
        }
    }
}
