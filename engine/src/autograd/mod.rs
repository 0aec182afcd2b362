//! Reverse-mode differentiation: a tape of the transformer's own fused ops, and f64 scalars for the heads of the losses.

mod checkpoint;
mod grads;
pub mod scalar;
mod tape;

pub use checkpoint::{Segment, checkpoint};
pub use grads::{Grads, ParamGrads};
pub use tape::{Again, Backward, Input, Mode, Saved, SavedF32, SavedOrAgain, Tape, Var};
