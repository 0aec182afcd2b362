//! The order of the rows in an epoch, and the rows of a batch: reading them ahead, packing them under a token budget, and giving
//! them mismatched answers.

pub(crate) mod ahead;
pub(crate) mod mismatch;
pub(crate) mod order;
pub(crate) mod pack;
