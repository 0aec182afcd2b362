//! Recognises quantised weights, for the message that refuses them.

use super::tensor::TensorInfo;
use safetensors::Dtype;
use std::fmt;

/// The format of quantised weights, and the tensor by which it was recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    pub(super) format: QuantisedFormat,
    pub(super) tensor: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
}

/// Programs and formats that quantise weights, recognised by how they name tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuantisedFormat {
    GptqOrAwq,
    Bitsandbytes {
        bits: u8,
    },
    Mlx,
    CompressedTensors,
    /// Eight-bit floats or integers with separate scales.
    Scaled,
    Mxfp4,
    Hqq,
    Aqlm,
    /// No tensor has a name of a known format, but a matrix has a number format that plain weights never have.
    Unknown,
}

impl fmt::Display for QuantisedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantisedFormat::GptqOrAwq => f.write_str("GPTQ or AWQ"),
            QuantisedFormat::Bitsandbytes { bits } => write!(f, "bitsandbytes, {bits} bits"),
            QuantisedFormat::Mlx => f.write_str("MLX"),
            QuantisedFormat::CompressedTensors => f.write_str("compressed-tensors"),
            QuantisedFormat::Scaled => f.write_str("FP8 or INT8 with scales"),
            QuantisedFormat::Mxfp4 => f.write_str("MXFP4"),
            QuantisedFormat::Hqq => f.write_str("HQQ"),
            QuantisedFormat::Aqlm => f.write_str("AQLM"),
            QuantisedFormat::Unknown => f.write_str("unknown format"),
        }
    }
}

/// Endings of tensor names, each with the format that it points to.
const ENDINGS: [(&str, QuantisedFormat); 17] = [
    (".qweight", QuantisedFormat::GptqOrAwq),
    (".qzeros", QuantisedFormat::GptqOrAwq),
    (".g_idx", QuantisedFormat::GptqOrAwq),
    (".absmax", QuantisedFormat::Bitsandbytes { bits: 4 }),
    (".quant_map", QuantisedFormat::Bitsandbytes { bits: 4 }),
    (".SCB", QuantisedFormat::Bitsandbytes { bits: 8 }),
    (".weight_format", QuantisedFormat::Bitsandbytes { bits: 8 }),
    (".weight_packed", QuantisedFormat::CompressedTensors),
    (".weight_shape", QuantisedFormat::CompressedTensors),
    (".weight_zero_point", QuantisedFormat::CompressedTensors),
    (".weight_scale", QuantisedFormat::Scaled),
    (".weight_scale_inv", QuantisedFormat::Scaled),
    (".weight_scale_2", QuantisedFormat::Scaled),
    (".scales", QuantisedFormat::Mlx),
    (".W_q", QuantisedFormat::Hqq),
    (".codebooks", QuantisedFormat::Aqlm),
    ("_blocks", QuantisedFormat::Mxfp4),
];

/// Returns the first sign of quantised weights among `tensors`: a name that only such files have, or a matrix of integers or of
/// floats below 16 bits. `None` if the weights are not quantised. `contains` tells whether a tensor with a given name exists.
pub(super) fn recognise<'a>(
    tensors: impl Iterator<Item = &'a TensorInfo> + Clone,
    contains: impl Fn(&str) -> bool,
) -> Option<Quantised> {
    let shown = |format, tensor: &TensorInfo| Quantised {
        format,
        tensor: tensor.name.clone(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.clone(),
    };
    let of_name = tensors.clone().find_map(|tensor| Some(shown(format_of(&tensor.name, &contains)?, tensor)));
    let packed =
        |tensor: &&TensorInfo| tensor.name.ends_with(".weight") && tensor.shape.len() == 2 && !is_plain(tensor.dtype);
    let mut tensors = tensors;
    of_name.or_else(|| tensors.find(packed).map(|tensor| shown(QuantisedFormat::Unknown, tensor)))
}

fn format_of(name: &str, contains: impl Fn(&str) -> bool) -> Option<QuantisedFormat> {
    if name.contains(".quant_state.bitsandbytes__") {
        return Some(QuantisedFormat::Bitsandbytes { bits: 4 });
    }
    let (ending, format) = ENDINGS.into_iter().find(|(ending, _)| name.ends_with(ending))?;
    // GPTQ and AWQ have `scales` too, beside `qweight`; MLX has them beside `weight`
    let beside = |other: &str| name.strip_suffix(ending).map(|module| contains(&format!("{module}{other}")));
    match format {
        QuantisedFormat::Mlx if beside(".qweight") == Some(true) => Some(QuantisedFormat::GptqOrAwq),
        _ => Some(format),
    }
}

/// Whether plain weights may have this number format.
fn is_plain(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
