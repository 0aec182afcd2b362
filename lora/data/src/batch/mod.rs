//! The order of an epoch, and the rows of a batch: read ahead, packed under a budget, given a mismatched answer.

pub(crate) mod ahead;
pub(crate) mod mismatch;
pub(crate) mod order;
pub(crate) mod pack;
