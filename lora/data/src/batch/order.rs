//! The order of rows in an epoch: a pure function of (seed, epoch), so that a resumed run needs only these two numbers.
//!
//! The generator is SplitMix64 used as a hash of a counter (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", OOPSLA 2014): draw `k` of a key is `mix(key + (k + 1) * GOLDEN)`. It has no state and does not depend on the
//! order of calls. Its bits are the same on every machine and in every version of this program.

/// The odd number closest to 2^64 divided by the golden ratio: SplitMix64's increment.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function (Stafford's variant 13): each bit depends on all bits of `z`.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Hashes a number under a seed.
pub(crate) fn keyed(seed: u64, number: u64) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(number.wrapping_mul(GOLDEN)))
}

/// Draws evenly from `0..n`: multiply-shift with rejection (Lemire, arXiv 1805.10941). After a rejected value, the next attempt
/// uses another stream at the same counter, so a rejection never changes a later draw.
fn below(key: u64, counter: u64, n: u64) -> u64 {
    let threshold = n.wrapping_neg() % n; // 2^64 mod n: values whose low word is below it would make the draw uneven
    let mut attempt = 0u64;
    loop {
        let bits = mix(mix(key.wrapping_add(attempt)).wrapping_add((counter + 1).wrapping_mul(GOLDEN)));
        let wide = u128::from(bits) * u128::from(n);
        if wide as u64 >= threshold {
            return (wide >> 64) as u64;
        }
        attempt += 1;
    }
}

/// Returns the rows `0..n` in the order of one epoch: a Fisher-Yates shuffle keyed by (seed, epoch). The draws are
/// unbiased.
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let n = u32::try_from(n).expect("a data set has at most 2^32 rows: Dataset::open checks it");
    let key = keyed(seed, epoch);
    let mut order: Vec<u32> = (0..n).collect();
    for i in (1..order.len()).rev() {
        let j = below(key, i as u64, i as u64 + 1) as usize;
        order.swap(i, j);
    }
    order
}

/// Rearranges `order` so that no row follows one of the same group. Returns the number of rows that still do: 0 unless one group
/// has more than half of the rows.
///
/// For unpaired data made from pairs: KTO's mismatched answer is that of the previous row, and must not answer the same prompt.
/// Most rows stay where they are. A row that follows one of its group is exchanged with the next row of another group. If there
/// is none, only rows of that group are left; they move back to the last places between two rows of other groups.
pub fn separate(order: &mut Vec<u32>, group: impl Fn(u32) -> u32) -> usize {
    let mut left = 0;
    let mut next = 0; // no row between `i` and this one fits; kept, so that a long run of one group is searched only once
    let mut hint_group = None;
    let mut i = 1;
    while i < order.len() {
        let before = group(order[i - 1]);
        if group(order[i]) != before {
            i += 1;
            continue;
        }
        if hint_group != Some(before) || next <= i {
            next = i + 1;
            hint_group = Some(before);
        }
        while next < order.len() && group(order[next]) == before {
            next += 1;
        }
        if next < order.len() {
            order.swap(i, next);
            i += 1;
            continue;
        }
        // All rows from `i` on are of group `before`. Each moves back between two rows of other groups, the last such gap
        // first.
        let is_other = |at: usize| group(order[at]) != before;
        let is_gap = |&gap: &usize| is_other(gap) && (gap == 0 || is_other(gap - 1));
        let gaps: Vec<usize> = (0..i).rev().filter(is_gap).take(order.len() - i).collect();
        let (moved, rest) = order[i..].split_at(gaps.len());
        left = rest.len();
        let mut moves = gaps.iter().zip(moved).rev().peekable();
        let mut separated = Vec::with_capacity(order.len());
        for (at, &row) in order[..i].iter().enumerate() {
            separated.extend(moves.next_if(|(gap, _)| **gap == at).map(|(_, &row)| row));
            separated.push(row);
        }
        separated.extend_from_slice(rest);
        *order = separated;
        break;
    }
    left
}

/// Alternates the rows of `chosen` and `rejected` so that neighbours are of different groups. This is the unshuffled order of
/// rows that were made from pairs. `chosen` and `rejected` are in the order of the pairs.
///
/// Rejected answers come two pairs late, so those of the first two pairs are at the end. If one list is longer, the shorter one is
/// spread over it. The rows of each list are a class. A row that would follow one of its group waits for the next place of its
/// class. If all rows left in the class would follow one of their group, the first of them takes the place. It is later exchanged
/// with an earlier row of its class if each of the two fits in the other's place.
pub fn interleave(chosen: &[u32], rejected: &[u32], group: impl Fn(u32) -> u32) -> Vec<u32> {
    let behind = rejected.len().min(2);
    let mut classes = [Queue::new(chosen.to_vec()), Queue::new([&rejected[behind..], &rejected[..behind]].concat())];
    let mut order: Vec<u32> = Vec::with_capacity(chosen.len() + rejected.len());
    let mut class_of = Vec::with_capacity(order.capacity());
    let mut taken = [0, 0];
    let mut left = Vec::new();
    while order.len() < chosen.len() + rejected.len() {
        let class = usize::from(taken[0] * rejected.len() > taken[1] * chosen.len() || taken[0] == chosen.len());
        taken[class] += 1;
        let before = order.last().map(|&row| group(row));
        let row = match classes[class].take(|row| Some(group(row)) != before, &group) {
            Some(row) => row,
            None => {
                left.push(order.len());
                classes[class].first()
            }
        };
        order.push(row);
        class_of.push(class);
    }
    exchange(&mut order, &class_of, &left, &group);
    order
}

/// The rows of a class that still need a place.
struct Queue {
    rows: Vec<u32>,
    next: usize,
    /// Rows that were skipped, all of one group.
    waiting: std::collections::VecDeque<u32>,
}

impl Queue {
    fn new(rows: Vec<u32>) -> Queue {
        Queue { rows, next: 0, waiting: std::collections::VecDeque::new() }
    }

    /// Takes the first row that fits. `None` if no row fits.
    fn take(&mut self, fits: impl Fn(u32) -> bool, group: impl Fn(u32) -> u32) -> Option<u32> {
        if self.waiting.front().is_some_and(|&row| fits(row)) {
            return self.waiting.pop_front();
        }
        while let Some(&row) = self.rows.get(self.next) {
            self.next += 1;
            if fits(row) {
                return Some(row);
            }
            debug_assert!(self.waiting.front().is_none_or(|&other| group(other) == group(row)));
            self.waiting.push_back(row);
        }
        None
    }

    /// Takes the first row, even if it does not fit.
    fn first(&mut self) -> u32 {
        let waiting = self.waiting.pop_front();
        waiting.unwrap_or_else(|| {
            self.next += 1;
            self.rows[self.next - 1]
        })
    }
}

/// Exchanges the rows at the places `left`, which follow a row of their own group, with earlier rows of their class.
fn exchange(order: &mut [u32], class_of: &[usize], left: &[usize], group: impl Fn(u32) -> u32) {
    let fits = |order: &[u32], at: usize, row: u32| {
        let beside = |other: Option<&u32>| other.is_none_or(|&other| group(other) != group(row));
        beside(at.checked_sub(1).map(|before| &order[before])) && beside(order.get(at + 1))
    };
    // for each class and group, the lowest place that was tried
    let mut tried = std::collections::HashMap::new();
    for &at in left {
        let row = order[at];
        if group(order[at - 1]) != group(row) {
            continue; // an earlier exchange has changed the row before it
        }
        let upto = tried.entry((class_of[at], group(row))).or_insert(at);
        while *upto > 0 {
            *upto -= 1;
            let earlier = *upto;
            // the direct neighbour of `at` cannot be checked, since the exchange would move it too
            if class_of[earlier] != class_of[at] || earlier + 1 == at {
                continue;
            }
            if fits(order, earlier, row) && fits(order, at, order[earlier]) {
                order.swap(earlier, at);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_is_a_function_of_seed_and_epoch() {
        assert_eq!(permutation(1000, 42, 3), permutation(1000, 42, 3));
        assert_ne!(permutation(1000, 42, 3), permutation(1000, 42, 4));
        assert_ne!(permutation(1000, 42, 3), permutation(1000, 43, 3));
        assert_eq!(permutation(0, 1, 1), Vec::<u32>::new());
        assert_eq!(permutation(1, 1, 1), vec![0]);
        // written down, so that a change of the generator, which would break every resumed run, fails here
        assert_eq!(permutation(8, 42, 0), PINNED);
    }
    const PINNED: [u32; 8] = [7, 5, 1, 0, 4, 3, 6, 2];

    /// Counts all 24 orders of 4 rows over 24000 epochs. 1000 of each are expected, with a standard deviation of sqrt(1000 *
    /// 23/24) = 31. The largest of 24 deviations exceeds 5 standard deviations for one seed in 70000.
    #[test]
    fn all_orders_are_alike() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            *counts.entry(permutation(4, 7, epoch)).or_insert(0i32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&c| (c - 1000).abs() < 155), "{counts:?}");
    }

    /// Separates orders that would take hours if the search began anew for each row, or if rows moved back one at a time.
    #[test]
    fn large_orders_are_separated() {
        const N: u32 = 1 << 20;
        const HALF: u32 = N / 2;
        type Group = fn(u32) -> u32;
        let shapes: [(&str, Group); 6] = [
            ("one prompt has the first half", |row| if row < HALF { 0 } else { row }),
            ("one prompt has the second half", |row| if row < HALF { row } else { N }),
            ("two prompts", |row| row / HALF),
            ("one prompt has two thirds", |row| if row % 3 == 0 { row } else { N }),
            ("two rows a prompt, side by side", |row| row / 2),
            ("long runs of three prompts", |row| row / 1000 % 3),
        ];
        for (name, group) in shapes {
            let mut counts = std::collections::HashMap::new();
            (0..N).for_each(|row| *counts.entry(group(row)).or_insert(0usize) += 1);
            let largest = counts.into_values().max().unwrap();
            for mut order in [(0..N).collect::<Vec<u32>>(), permutation(N as usize, 1, 0)] {
                let left = separate(&mut order, group);
                let follows = order.windows(2).filter(|w| group(w[0]) == group(w[1])).count();
                assert_eq!(follows, left, "{name}");
                assert_eq!(left, (2 * largest).saturating_sub(N as usize + 1), "{name}");
                order.sort_unstable();
                assert!(order.into_iter().eq(0..N), "{name}: every row once");
            }
        }
    }

    fn follows(order: &[u32], group: impl Fn(u32) -> u32) -> usize {
        order.windows(2).filter(|w| group(w[0]) == group(w[1])).count()
    }

    /// Interleaves the rows of pairs with these prompts. Row `2 p` is the chosen answer of pair `p`, row `2 p + 1` the rejected
    /// one.
    fn interleaved(prompts: &[u32]) -> Vec<u32> {
        let n = prompts.len() as u32;
        let (chosen, rejected): (Vec<u32>, Vec<u32>) = (0..n).map(|pair| (2 * pair, 2 * pair + 1)).unzip();
        interleave(&chosen, &rejected, |row| prompts[row as usize / 2])
    }

    #[test]
    fn pairs_stand_in_turn() {
        assert_eq!(interleaved(&[0, 1, 2, 3, 4]), [0, 5, 2, 7, 4, 9, 6, 1, 8, 3]);
        assert_eq!(interleaved(&[0, 1, 2]), [0, 5, 2, 1, 4, 3]);
        // with two prompts, the classes cannot take turns unless two neighbours have the same prompt
        assert_eq!(interleaved(&[0, 1]), [0, 3, 2, 1]);
        assert_eq!(interleaved(&[0]), [0, 1]);
        // five pairs of each prompt in a row, as in files with several answers to a prompt
        let prompts: Vec<u32> = (0..40).map(|pair| pair / 5).collect();
        let order = interleaved(&prompts);
        assert_eq!(follows(&order, |row| prompts[row as usize / 2]), 0, "{order:?}");
    }

    #[test]
    fn the_rarer_class_is_spread() {
        let order = interleave(&[0, 1, 2, 3, 4, 5], &[6, 7, 8], |row| row);
        let classes: Vec<bool> = order.iter().map(|row| *row < 6).collect();
        assert_eq!(classes, [true, false, true, true, false, true, true, false, true]);
        assert_eq!(interleave(&[], &[3, 4, 5], |row| row), [5, 3, 4]);
    }

    #[test]
    fn many_pairs_of_few_prompts_are_interleaved() {
        const PAIRS: u32 = 1 << 19;
        for (name, prompt) in [
            ("one prompt", (|_| 0) as fn(u32) -> u32),
            ("one prompt has two thirds", |pair| if pair % 3 == 0 { pair } else { PAIRS }),
            ("long runs of three prompts", |pair| pair / 1000 % 3),
            ("one prompt has the last third", |pair| if pair < PAIRS / 3 * 2 { pair } else { PAIRS }),
        ] {
            let prompts: Vec<u32> = (0..PAIRS).map(prompt).collect();
            let mut order = interleaved(&prompts);
            let follows = follows(&order, |row| prompts[row as usize / 2]);
            assert_eq!(follows == 0, name.starts_with("long") || name.contains("last"), "{name}: {follows}");
            order.sort_unstable();
            assert!(order.into_iter().eq(0..2 * PAIRS), "{name}: every row once");
        }
    }

    proptest! {
        #[test]
        fn interleaved_classes_take_turns(prompts in prop::collection::vec(0u32..9, 0..60)) {
            let mut order = interleaved(&prompts);
            prop_assert!(order.iter().enumerate().all(|(place, row)| place % 2 == *row as usize % 2));
            let follows = follows(&order, |row| prompts[row as usize / 2]);
            let largest = (0..9).map(|p| prompts.iter().filter(|&&x| x == p).count()).max().unwrap_or(0);
            // with four pairs or more, and no prompt in more than a quarter of them, no two neighbours have the same prompt
            if largest * 4 <= prompts.len() && prompts.len() >= 4 {
                prop_assert_eq!(follows, 0);
            }
            order.sort_unstable();
            prop_assert_eq!(order, (0..2 * prompts.len() as u32).collect::<Vec<_>>());
        }

        #[test]
        fn a_permutation_holds_every_row_once(n in 0usize..500, seed: u64, epoch: u64) {
            let mut order = permutation(n, seed, epoch);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n as u32).collect::<Vec<_>>());
        }

        #[test]
        fn separated_rows_never_follow_their_like(groups in prop::collection::vec(0u32..6, 0..80), seed: u64) {
            let mut order = permutation(groups.len(), seed, 0);
            let left = separate(&mut order, |row| groups[row as usize]);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..groups.len() as u32).collect::<Vec<_>>());
            let follows = order.windows(2).filter(|w| groups[w[0] as usize] == groups[w[1] as usize]).count();
            prop_assert_eq!(follows, left);
            let largest = (0..6).map(|g| groups.iter().filter(|&&x| x == g).count()).max().unwrap_or(0);
            // k rows of one group among n can be kept apart exactly if k <= n - k + 1
            prop_assert_eq!(left, (2 * largest).saturating_sub(groups.len() + 1));
        }
    }
}
