//! What a run remembers from step to step, for losses with running statistics.

use serde::{Deserialize, Serialize};

/// Running statistics of the optimiser steps so far. They are part of the trainer's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Mean of `beta * log-ratio` over all answers so far, which is BCO's shift.
    pub(super) rewards: RunningMean,
    /// Mean and deviation of alpha-DPO's gaps, the margins of the log-ratios per token.
    pub(super) gaps: RunningSpread,
    /// Whether gathered statistics stay unchanged, see [`History::for_evaluation`].
    #[serde(skip)]
    fixed: bool,
}

impl History {
    /// Returns the history for an evaluation. Statistics that training has gathered stay unchanged; empty ones are gathered from
    /// the evaluated rows.
    pub fn for_evaluation(self) -> Self {
        History { fixed: true, ..self }
    }

    /// Adds the rewards of a batch. The history of an evaluation changes only if it has no rewards yet.
    pub fn with_rewards(self, rewards: impl IntoIterator<Item = f64>) -> Self {
        let keep = self.fixed && self.rewards.count > 0;
        History { rewards: if keep { self.rewards } else { self.rewards.with(rewards) }, ..self }
    }

    /// Adds the gaps of a batch. The history of an evaluation changes only if it has no gaps yet.
    pub fn with_gaps(self, gaps: &[f64]) -> Self {
        let keep = self.fixed && self.gaps.batches > 0;
        History { gaps: if keep { self.gaps } else { self.gaps.with(gaps) }, ..self }
    }
}

/// A mean over all numbers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunningMean {
    count: u64,
    sum: f64,
}

impl RunningMean {
    /// Adds more numbers.
    fn with(self, numbers: impl IntoIterator<Item = f64>) -> Self {
        numbers.into_iter().fold(self, |RunningMean { count, sum }, x| RunningMean { count: count + 1, sum: sum + x })
    }

    /// Returns the mean, or 0 if there are no numbers.
    pub(super) fn mean(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

/// Exponential moving averages of the mean and of the unbiased standard deviation of batches, starting at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunningSpread {
    /// Number of batches so far that had at least two numbers.
    batches: u32,
    pub(super) mean: f64,
    pub(super) std: f64,
}

/// The weight that the earlier averages keep when a batch is added.
pub(super) const DECAY: f64 = 0.9;

impl RunningSpread {
    /// Adds a batch. A batch of a single number has no deviation and changes nothing.
    fn with(self, batch: &[f64]) -> Self {
        if batch.len() < 2 {
            return self;
        }
        let n = batch.len() as f64;
        let mean = batch.iter().sum::<f64>() / n;
        let std = (batch.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let average = |old: f64, new: f64| DECAY * old + (1.0 - DECAY) * new;
        RunningSpread { batches: self.batches + 1, mean: average(self.mean, mean), std: average(self.std, std) }
    }

    /// Returns mean and deviation, corrected for the averages' start at 0. Both are 0 before the first batch.
    pub(super) fn corrected(self) -> (f64, f64) {
        if self.batches == 0 {
            return (0.0, 0.0);
        }
        let weight = 1.0 - DECAY.powf(f64::from(self.batches));
        (self.mean / weight, self.std / weight)
    }
}
