//! Reverse-mode differentiation: a tape of the transformer's own fused ops, and f64 scalars for the heads of the losses.

mod grads;
mod recompute;
pub mod scalar;
mod tape;
mod value;

pub use grads::{Grads, ParamGrads};
pub use recompute::{Layer, recompute};
pub use tape::{Backward, Mode, Tape};
pub use value::{Input, Recompute, Saved, SavedF32, SavedOrRecomputed, Var};
