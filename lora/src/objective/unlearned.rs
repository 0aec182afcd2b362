//! Rows from which a run learns nothing.

use serde::{Deserialize, Serialize};

/// Pairs without a gradient are reported if they are more than this share of the rows.
const MANY: f64 = 0.03;

/// How many of the rows that a run has seen taught it nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnlearnedCounts {
    /// Rows seen.
    pub rows: u64,
    /// Pairs for which the loss has no gradient, see [`Unlearned::Saturated`].
    pub saturated: u64,
    /// Pairs whose gradient a bound of the formula removed.
    pub clipped: u64,
    /// Rows of scored answers whose rewards make no pair, so that their loss is 0.
    pub undecided: u64,
}

impl UnlearnedCounts {
    /// Whether `pairs` is so large a share of the rows that it is reported.
    pub(super) fn is_many(&self, pairs: u64) -> bool {
        pairs as f64 > MANY * self.rows as f64
    }
}

/// Rows of a run that taught it nothing, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the variants' lines name their fields")]
pub enum Unlearned {
    /// `pairs` pairs have a reward margin above `margin` or below `-margin`, where the loss has no gradient.
    Saturated { pairs: u64, margin: f64 },
    /// `pairs` pairs are beyond a bound in the formula of the loss, which removes their gradient.
    Clipped { pairs: u64 },
    /// `rows` rows have a single answer or only equal rewards, so the loss makes no pair of their answers.
    Undecided { rows: u64 },
}
