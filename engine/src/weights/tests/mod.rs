//! Tests of weight files: sound ones (a single file or shards), unsound ones, and the writer.

mod headers;
#[cfg(unix)]
mod links;
mod shards;
mod tensors;
mod writing;

use super::*;
use align_kernels::Device;
use align_kernels::device::WeightSlice;
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Returns the content of a safetensors file with this header and `data` bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(std::iter::repeat_n(0x3C, data));
    bytes
}

/// Returns the entry of one tensor in a header.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// Writes a file of tensors in the format `dtype`. Each tensor is given as name, shape and values.
fn write(path: &Path, dtype: Dtype, tensors: &[(&str, &[usize], &[f32])]) {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec { name: name.to_string(), dtype, shape: shape.to_vec() })
        .collect();
    let mut writer = SafetensorsWriter::create(path, &BTreeMap::new(), &specs).unwrap();
    for (name, _, values) in tensors {
        writer.write(name, &encode(dtype, values)).unwrap();
    }
    writer.finish().unwrap();
}

fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| match dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            other => panic!("the tests do not write {other}"),
        })
        .collect()
}

fn widen(weights: WeightSlice<'_>) -> Vec<f32> {
    match weights {
        WeightSlice::F32(values) => values.download().unwrap(),
        WeightSlice::F16(values) => values.download().unwrap().iter().map(|value| value.to_f32()).collect(),
        WeightSlice::Bf16(values) => values.download().unwrap().iter().map(|value| value.to_f32()).collect(),
    }
}

fn open(dir: &Path) -> Result<WeightFiles, LoadError> {
    WeightFiles::open(dir, ValueCheck::Finite)
}

/// Makes a directory with two shards that hold `a`, `b` and `c`, and an index with the content `index`.
fn sharded(index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("model-00001-of-00002.safetensors");
    let two = dir.path().join("model-00002-of-00002.safetensors");
    write(&one, Dtype::BF16, &[("a", &[1, 2], &[1.0, 2.0]), ("b", &[1, 1], &[3.0])]);
    write(&two, Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    dir
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn weight_map(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(tensor, shard)| format!("{}:{}", serde_json::json!(tensor), serde_json::json!(shard)))
        .collect();
    format!(r#"{{"metadata":{{"total_size":10}},"weight_map":{{{}}}}}"#, entries.join(","))
}
