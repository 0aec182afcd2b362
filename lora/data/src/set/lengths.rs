//! How long the rows are: counts of lengths in tokens, in classes whose limits are powers of two.

use serde::{Deserialize, Serialize};

/// Counts of lengths. Class 0 is the length 0, class `k` the lengths from `2^(k-1)` to `2^k - 1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    classes: Vec<u64>,
    /// How many lengths were counted.
    pub count: u64,
    /// The sum of the lengths, in tokens.
    pub sum: u64,
    /// The largest length, in tokens.
    pub largest: usize,
}

/// One class of a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Smallest length of the class, in tokens.
    pub from: u64,
    /// Largest length of the class.
    pub to: u64,
    /// How many lengths were counted in the class.
    pub count: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, tokens: usize) {
        let class = (usize::BITS - tokens.leading_zeros()) as usize;
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.sum += tokens as u64;
        self.largest = self.largest.max(tokens);
    }

    /// Returns the mean length in tokens; 0 if nothing was counted.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// Returns the classes from the first to the last that is not empty.
    pub fn classes(&self) -> Vec<Class> {
        let class = |(k, &count): (usize, &u64)| match k {
            0 => Class { from: 0, to: 0, count },
            k => Class { from: 1 << (k - 1), to: (1 << (k - 1)) * 2 - 1, count },
        };
        self.classes.iter().enumerate().map(class).skip_while(|class| class.count == 0).collect()
    }
}

/// Lengths of prompts and answers before `max_length` cuts. They cover the usable rows, and the rows that are dropped because
/// their prompt leaves no room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Lengths of the prompts.
    pub prompt: Histogram,
    /// Lengths of the answers.
    pub answer: Histogram,
    /// Lengths of each prompt together with one of its answers.
    pub total: Histogram,
    /// How many lengths of `total` are beyond `max_length`.
    pub beyond: u64,
}

impl Lengths {
    /// Returns the share of [`Lengths::total`] that is beyond `max_length`, from 0 to 1.
    pub fn share_beyond(&self) -> f64 {
        self.beyond as f64 / self.total.count.max(1) as f64
    }

    pub(crate) fn add(&mut self, prompt: usize, answers: &[usize], max_length: usize) {
        self.prompt.add(prompt);
        for answer in answers {
            self.answer.add(*answer);
            self.total.add(prompt + answer);
            self.beyond += u64::from(prompt + answer > max_length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_length_is_in_its_class(lengths in prop::collection::vec(0usize..5000, 0..50)) {
            let mut histogram = Histogram::default();
            lengths.iter().for_each(|&length| histogram.add(length));
            let classes = histogram.classes();
            for class in &classes {
                let inside = |length: &&usize| (class.from..=class.to).contains(&(**length as u64));
                prop_assert_eq!(class.count, lengths.iter().filter(inside).count() as u64);
            }
            prop_assert_eq!(classes.iter().map(|class| class.count).sum::<u64>(), lengths.len() as u64);
            prop_assert!(classes.windows(2).all(|pair| pair[0].to + 1 == pair[1].from));
            prop_assert_eq!(histogram.sum, lengths.iter().sum::<usize>() as u64);
            prop_assert_eq!(histogram.largest, lengths.into_iter().max().unwrap_or(0));
        }
    }

    #[test]
    fn what_is_beyond_max_length_is_counted_with_its_prompt() {
        let mut lengths = Lengths::default();
        lengths.add(6, &[4, 5], 10);
        assert_eq!((lengths.total.count, lengths.beyond, lengths.share_beyond()), (2, 1, 0.5));
        assert_eq!(lengths.answer.mean(), 4.5);
    }
}
