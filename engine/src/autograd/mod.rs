//! Reverse-mode differentiation: a tape of the transformer's own fused ops, and f64 scalars for the heads of the losses.

mod checkpoint;
mod grads;
pub mod scalar;
mod tape;
mod value;

pub use checkpoint::{Segment, checkpoint};
pub use grads::{Grads, ParamGrads};
pub use tape::{Backward, Mode, Tape};
pub use value::{Again, Input, Saved, SavedF32, SavedOrAgain, Var};
