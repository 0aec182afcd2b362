//! Number formats of operands.

use bytemuck::Pod;
use half::{bf16, f16};
use std::fmt;

/// What a buffer can hold: plain numbers.
pub trait Element: Pod + Send + Sync + fmt::Debug {}
impl Element for f32 {}
impl Element for f64 {}
impl Element for u32 {}
impl Element for u64 {}
impl Element for bf16 {}
impl Element for f16 {}

/// What the matrix products multiply. Accumulation is always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Both operands are rounded to bf16 before they are multiplied.
    Bf16,
    /// Operands are multiplied as f32; 16-bit weights are widened, which is exact.
    F32,
}

/// The number formats of activations and of their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatDtype {
    /// 24 significant bits.
    F32,
    /// 8 significant bits, the range of f32.
    Bf16,
}

impl FloatDtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            FloatDtype::F32 => 4,
            FloatDtype::Bf16 => 2,
        }
    }
}

/// A type of the numbers of activations and of their gradients.
pub(crate) trait Float: Element {
    const DTYPE: FloatDtype;
}

impl Float for f32 {
    const DTYPE: FloatDtype = FloatDtype::F32;
}

impl Float for bf16 {
    const DTYPE: FloatDtype = FloatDtype::Bf16;
}

impl From<Precision> for FloatDtype {
    /// The format of activations between matrix products of this precision.
    fn from(precision: Precision) -> FloatDtype {
        match precision {
            Precision::F32 => FloatDtype::F32,
            Precision::Bf16 => FloatDtype::Bf16,
        }
    }
}

/// The number formats of frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// 24 significant bits.
    F32,
    /// 11 significant bits, at most 65504.
    F16,
    /// 8 significant bits, the range of f32.
    Bf16,
}

impl WeightDtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            WeightDtype::F32 => 4,
            WeightDtype::F16 | WeightDtype::Bf16 => 2,
        }
    }
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightDtype::F32 => "f32",
            WeightDtype::F16 => "f16",
            WeightDtype::Bf16 => "bf16",
        })
    }
}
