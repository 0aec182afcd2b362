//! Attention in f32: blocks of keys pass over query rows.

pub(super) mod backward;
pub(super) mod forward;
mod product;
mod softmax;
