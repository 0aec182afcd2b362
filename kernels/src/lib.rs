//! Arithmetic on rows of numbers: devices, buffers, and the kernels of a transformer.
//!
//! A kernel is a folder: `mod.rs` is the contract (argument structs, shapes, errors, the choice of device), `reference.rs`
//! the plain version that defines it, `cpu.rs` or `cpu/` the fast one, `cuda.rs` the one for a GPU, which launches what the `.cu`
//! file beside it defines, `case.rs` the shapes that the tests and the benches share. Nothing here knows what a model, a gradient
//! tape, a file format or a tokenizer is.

pub mod adamw;
pub mod add;
mod arena;
pub mod argmax;
pub mod attention;
pub mod case;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod dropout;
pub mod embed;
mod error;
mod formats;
pub mod gate;
pub mod gemm;
mod real;
pub mod rms_norm;
pub mod rmsprop;
pub mod rng;
pub mod rope;
pub mod rows;
pub mod softcap;
pub mod sum_squares;
pub mod token_logps;

pub use device::{
    Buffer, Columns, Count, Device, FloatBuffer, FloatSlice, FloatSliceMut, IGNORE, IndexSlice, Indices, Slice,
    SliceMut, WeightSlice,
};
pub use error::{KernelError, Result};
pub use formats::{FloatDtype, Precision};

/// Every case of every kernel, for the tests and the benches.
pub fn cases() -> Vec<case::Case> {
    [
        gemm::case::cases(),
        attention::case::cases(),
        token_logps::case::cases(),
        rms_norm::case::cases(),
        rope::case::cases(),
        gate::case::cases(),
        embed::case::cases(),
        add::case::cases(),
        rows::case::cases(),
        softcap::case::cases(),
        argmax::case::cases(),
        dropout::case::cases(),
        adamw::case::cases(),
        rmsprop::case::cases(),
        sum_squares::case::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
