//! The header of a safetensors file, checked against the file.
//!
//! Layout: 8 bytes for the header's length (little endian), the header (JSON), the tensors' bytes. The header maps each name to
//! a dtype, a shape, and the tensor's begin and end within the bytes after the header. `__metadata__` maps strings to strings.
//! Source: the format's page, <https://huggingface.co/docs/safetensors>.
//!
//! The `safetensors` crate (0.8) checks lengths, UTF-8, nesting, that the tensors follow each other without gaps up to the file's
//! end, and that shapes fit their spans. But it does not notice a name that is listed twice with the same span, its sum of spans
//! wraps at 2^64 without a check, its parser needs up to sixteen times the header's size in memory, and its messages do not name
//! the tensor. So only its list of dtypes is used here. A test compares this parser with the crate's on damaged files.

use super::error::HeaderFault;
use super::tensor::TensorInfo;
use crate::json::shorten;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Bytes of the number that gives the header's length.
const LENGTH: usize = 8;
/// The largest header that the format allows, in bytes.
const MAX_HEADER: usize = 100_000_000;
/// Longest tensor name that is accepted, in bytes. Real names have fewer than 200.
const MAX_NAME: usize = 1024;
/// Maximum number of dimensions of a tensor. Real tensors have up to 5.
const MAX_DIMENSIONS: usize = 32;
/// Maximum number of characters of the header's text that a message quotes.
const SHOWN: usize = 200;

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// `__metadata__`
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
}

/// Reads and checks the header of a file with the content `file`. Every range of the result lies inside `file`.
///
/// # Errors
/// Every variant of [`HeaderFault`].
pub(crate) fn parse(file: &[u8]) -> Result<Header, HeaderFault> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(HeaderFault::TooShort { bytes: file.len() });
    };
    let claimed = u64::from_le_bytes(*length);
    let header = match usize::try_from(claimed) {
        Ok(length) if length <= MAX_HEADER && length <= rest.len() => &rest[..length],
        _ => return Err(HeaderFault::Length { claimed, available: rest.len(), limit: MAX_HEADER }),
    };
    let text = std::str::from_utf8(header).map_err(|error| HeaderFault::Utf8 { at: error.valid_up_to() })?;
    let raw: RawHeader =
        serde_json::from_str(text).map_err(|error| HeaderFault::Json { reason: shorten(&error.to_string(), SHOWN) })?;
    let available = (rest.len() - header.len()) as u64;
    let data_begin = LENGTH + header.len();

    let mut seen = HashSet::with_capacity(raw.tensors.len());
    for (name, _) in &raw.tensors {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let shown = shorten(name, SHOWN);
            return Err(HeaderFault::Name { bytes: name.len(), shown });
        }
        if !seen.insert(name.as_str()) {
            return Err(HeaderFault::Duplicate { name: name.clone() });
        }
    }
    drop(seen);

    let mut entries = raw.tensors;
    entries.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut before = 0;
    for (name, tensor) in entries {
        let (dtype, shape) = check_tensor(&name, &tensor, before, available)?;
        let (begin, end) = tensor.data_offsets;
        before = end;
        // Neither cast wraps: `begin` and `end` are at most `available`, which came from a usize.
        let bytes = data_begin + begin as usize..data_begin + end as usize;
        tensors.push(TensorInfo { name, dtype, shape, bytes });
    }
    if before != available {
        return Err(HeaderFault::Trailing { end: before, available });
    }
    Ok(Header { metadata: raw.metadata, tensors })
}

/// Returns the dtype and shape of a tensor. Checks that it begins at byte `before` of the data, fills its span, and ends within
/// the `available` bytes.
fn check_tensor(
    name: &str,
    tensor: &RawTensor,
    before: u64,
    available: u64,
) -> Result<(Dtype, Vec<usize>), HeaderFault> {
    let name = || name.to_owned();
    let deserializer = StrDeserializer::<serde::de::value::Error>::new(&tensor.dtype);
    let Ok(dtype) = Dtype::deserialize(deserializer) else {
        return Err(HeaderFault::Dtype { name: name(), dtype: shorten(&tensor.dtype, SHOWN) });
    };
    if tensor.shape.len() > MAX_DIMENSIONS {
        return Err(HeaderFault::Dimensions { name: name(), dimensions: tensor.shape.len() });
    }
    let (begin, end) = tensor.data_offsets;
    if end < begin {
        return Err(HeaderFault::Backwards { name: name(), begin, end });
    }
    if begin < before {
        return Err(HeaderFault::Overlap { name: name(), begin, before });
    }
    if begin > before {
        return Err(HeaderFault::Hole { name: name(), begin, before });
    }
    if end > available {
        return Err(HeaderFault::Truncated { name: name(), end, available });
    }
    let overflow = || HeaderFault::Overflow { name: name(), shape: tensor.shape.clone() };
    let bits = tensor.shape.iter().try_fold(dtype.bitsize() as u64, |bits, &size| bits.checked_mul(size));
    let bits = bits.ok_or_else(overflow)?;
    if !bits.is_multiple_of(8) || bits / 8 != end - begin {
        return Err(HeaderFault::Span {
            name: name(),
            dtype: dtype.to_string(),
            shape: tensor.shape.clone(),
            want: bits.div_ceil(8),
            got: end - begin,
        });
    }
    // A shape that holds a 0 passes the checks above even if another size is beyond usize.
    let shape = tensor.shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<usize>, _>>();
    Ok((dtype, shape.map_err(|_| overflow())?))
}

/// The header as written in the file. It is not checked yet, and may list a name twice.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        header.tensors.push((name, map.next_value()?));
                    } else if metadata_seen {
                        map.next_value::<IgnoredAny>()?;
                        return Err(serde::de::Error::duplicate_field("__metadata__"));
                    } else {
                        metadata_seen = true;
                        // Some writers put null here.
                        header.metadata = map.next_value::<Option<BTreeMap<String, String>>>()?.unwrap_or_default();
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
