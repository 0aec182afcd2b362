//! What a run wants of a data set: which rows, and in which order.

/// What happens to a bad row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadRow {
    /// The first one ends the run.
    Error,
    /// It is left out of the data and counted.
    Skip,
}

/// The order of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// Shuffled by this seed and the epoch.
    Seeded(u64),
    /// The order of the files. Rows made from pairs are in their [`UnpairedOrder`].
    Off,
}

/// The order of the rows that are made by splitting pairs, without a shuffle and in evaluations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnpairedOrder {
    /// Chosen and rejected answers alternate, and neighbours have different prompts if possible: see
    /// [`interleave`](crate::interleave).
    #[default]
    Interleaved,
    /// As in TRL: of each thousand pairs, all chosen answers and then all rejected ones. Evaluations then work batch by batch: a
    /// number that a loss computes from several rows, such as KTO's reference point, comes from the rows of one batch.
    Trl,
}
