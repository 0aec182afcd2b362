//! What a weight file says about one of its tensors.

use align_kernels::device::WeightDtype;
use half::{bf16, f16};
use safetensors::Dtype;
use std::ops::Range;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The name in the file, e.g. `model.norm.weight`.
    pub name: String,
    /// Format of an element.
    pub dtype: Dtype,
    /// The shape, row-major.
    pub shape: Vec<usize>,
    /// The range of the tensor's bytes in the file.
    pub bytes: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Reads the little-endian number at the beginning of `bytes` and widens it to f32.
pub fn widen(dtype: WeightDtype, bytes: &[u8]) -> f32 {
    match dtype {
        WeightDtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        WeightDtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        WeightDtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
    }
}
