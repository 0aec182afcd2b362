//! From rows to a [`Dataset`](dataset::Dataset): one walk counts all rows; later, rows are read on demand.

pub(crate) mod dataset;
pub(crate) mod decide;
pub(crate) mod dropped;
pub(crate) mod duplicates;
pub(crate) mod error;
pub(crate) mod index;
pub(crate) mod ingredients;
pub(crate) mod lengths;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod prompts;
pub(crate) mod rejects;
pub(crate) mod sample;
pub(crate) mod sanity;
pub(crate) mod split;
pub(crate) mod survey;
pub(crate) mod token_cache;
