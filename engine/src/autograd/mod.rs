//! Reverse-mode differentiation: f64 scalars for the heads of the losses.

pub mod scalar;
