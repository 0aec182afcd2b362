//! Chooses some of a row's scored answers, with a new choice in each epoch.

use align_data::{EncodedRow, Target};
use align_kernels::rng::Key;

/// Keeps only the scored answers that [`chosen`] picks, with their rewards.
pub(super) fn choose(row: &mut EncodedRow, most: usize, seed: u64, epoch: u64) {
    let Target::Rewards(rewards) = &mut row.target else { return };
    if let Some(places) = chosen(row.row, row.answers.len(), most, seed, epoch) {
        *rewards = places.iter().map(|&place| rewards[place]).collect();
        row.answers = places.iter().map(|&place| row.answers[place].clone()).collect();
    }
}

/// Picks `most` of a row's `n` scored answers for an epoch, and returns their indices in ascending order. Every choice is equally
/// likely. The choice depends only on the arguments. `None` if `n` is at most `most`, so that all answers are used.
pub(super) fn chosen(row: usize, n: usize, most: usize, seed: u64, epoch: u64) -> Option<Vec<usize>> {
    if n <= most {
        return None;
    }
    let key = Key::new(seed, epoch, row as u64);
    // the first steps of a Fisher-Yates shuffle
    let mut places: Vec<usize> = (0..n).collect();
    for i in 0..most {
        let [a, b, ..] = key.words(0, i as u64);
        let random = (u128::from(a) << 32) | u128::from(b);
        let j = i + ((random * (n - i) as u128) >> 64) as usize;
        places.swap(i, j);
    }
    places.truncate(most);
    places.sort_unstable();
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_data::{Answer, RowNumbers};

    fn row(number: usize, n: u32) -> EncodedRow {
        let answer = |id: u32| Answer { ids: vec![id], kept: 1, unscored: Vec::new() };
        EncodedRow {
            row: number,
            id: None,
            prompt: vec![9],
            answers: (0..n).map(answer).collect(),
            target: Target::Rewards((0..n).map(f64::from).collect()),
            numbers: RowNumbers::default(),
        }
    }

    fn left(number: usize, n: u32, most: usize, seed: u64, epoch: u64) -> Vec<u32> {
        let mut row = row(number, n);
        choose(&mut row, most, seed, epoch);
        let ids: Vec<u32> = row.answers.iter().map(|answer| answer.ids[0]).collect();
        let rewards: Vec<f64> = ids.iter().map(|&id| f64::from(id)).collect();
        assert_eq!(row.target, Target::Rewards(rewards), "an answer keeps its reward");
        assert!(ids.is_sorted(), "the order stays: {ids:?}");
        ids
    }

    #[test]
    fn a_choice_hangs_on_seed_epoch_and_row() {
        let base: Vec<_> = (0..20).map(|row| left(row, 8, 3, 1, 0)).collect();
        assert!(base.iter().all(|ids| ids.len() == 3));
        assert_eq!(base, (0..20).map(|row| left(row, 8, 3, 1, 0)).collect::<Vec<_>>());
        assert_ne!(base, (0..20).map(|row| left(row, 8, 3, 1, 1)).collect::<Vec<_>>());
        assert_ne!(base, (0..20).map(|row| left(row, 8, 3, 2, 0)).collect::<Vec<_>>());
        assert!(base.iter().any(|ids| *ids != base[0]), "rows differ");
        assert_eq!(left(0, 3, 3, 1, 0), [0, 1, 2], "no more than are wanted");
    }

    /// Each of the 10 pairs of 5 answers should be chosen in 400 of 4000 epochs. The bounds are 6 standard deviations of 19 away.
    #[test]
    fn every_choice_is_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..4000 {
            *counts.entry(left(0, 5, 2, 7, epoch)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|count| (286..514).contains(count)), "{counts:?}");
    }
}
