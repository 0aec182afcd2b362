//! Hashes that identify a base or an adapter. They are saved with an adapter or a run, and compared when the adapter or run is
//! used again.

use align_engine::adapters::AdapterSet;
use align_engine::model::{Layout, ModelConfig};
use align_engine::param::Param;
use align_engine::weights::{Dtype, SafetensorsFile, TensorInfo, WeightFiles};
use align_kernels::KernelError;
use blake3::{Hash, Hasher};
use half::{bf16, f16};
use std::collections::HashMap;

/// Approximate number of blocks of a tensor that are hashed. `BLOCK` is the number of elements in a block.
const BLOCKS: usize = 8;
const BLOCK: usize = 2048;

/// Hashes the weights that a model of this configuration uses: the shape of every tensor, and some blocks of its numbers, rounded
/// to bf16. Fine-tuning changes nearly every number, so this tells models apart and reads only a thousandth of a large model's
/// weights. It does not prove that all numbers are the same.
///
/// The hash does not depend on the folder, on how tensors are spread over files, on the prefix of their names, or on the number
/// format. A missing tensor is skipped; loading refuses such a model.
pub fn base_hash(config: &ModelConfig, files: &WeightFiles) -> Hash {
    let layout = Layout::of(config, files);
    let stored: HashMap<&str, (&TensorInfo, &SafetensorsFile)> =
        files.tensors().map(|(tensor, file)| (tensor.name.as_str(), (tensor, file))).collect();
    let mut hasher = Hasher::new();
    let mut tensors = layout.tensors(config);
    if config.tie_word_embeddings && !layout.head_is_tied(config, files) {
        tensors.push((layout.lm_head(), Vec::new()));
    }
    for (place, (name, _)) in tensors.iter().enumerate() {
        let Some((tensor, file)) = stored.get(name.as_str()) else { continue };
        hasher.update(&(place as u64).to_le_bytes());
        hasher.update(format!("{:?}", tensor.shape).as_bytes());
        let data = file.data(tensor);
        let element = data.len().checked_div(tensor.elements()).unwrap_or(0).max(1);
        let stride = (tensor.elements() / BLOCKS).max(BLOCK);
        for block in data.chunks(stride * element) {
            hasher.update(&rounded(tensor.dtype, &block[..block.len().min(BLOCK * element)]));
        }
    }
    hasher.finalize()
}

/// Rounds f32 and f16 numbers to bf16. Returns the bytes of any other format unchanged: it is bf16, or a format that weights
/// never have.
fn rounded(dtype: Dtype, numbers: &[u8]) -> Vec<u8> {
    let bf16s = |value: f32| bf16::from_f32(value).to_le_bytes();
    match dtype {
        Dtype::F32 => numbers.as_chunks::<4>().0.iter().flat_map(|&bytes| bf16s(f32::from_le_bytes(bytes))).collect(),
        Dtype::F16 => {
            numbers.as_chunks::<2>().0.iter().flat_map(|&bytes| bf16s(f16::from_le_bytes(bytes).to_f32())).collect()
        }
        _ => numbers.to_vec(),
    }
}

/// Hashes an adapter: the shapes and values of its matrices and its score head, and the layer and scaling of each update. Names
/// do not count.
///
/// # Errors
/// [`KernelError::Driver`] if the device has failed.
pub fn adapter_hash(adapter: &AdapterSet) -> Result<Hash, KernelError> {
    let mut hasher = Hasher::new();
    let mut add = |param: &Param| {
        for size in param.shape() {
            hasher.update(&(size as u64).to_le_bytes());
        }
        let values = param.read().view().download()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hasher.update(&bytes);
        Ok::<_, KernelError>(())
    };
    for (_, update) in adapter.iter() {
        add(&update.lora_a)?;
        add(&update.lora_b)?;
    }
    if let Some(head) = adapter.score_head() {
        add(head)?;
    }
    for (linear, update) in adapter.iter() {
        hasher.update(&(linear.0 as u64).to_le_bytes());
        hasher.update(&update.scaling.to_le_bytes());
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixtures::*;
    use super::super::{Adapter, LoraConfig};
    use super::*;
    use align_engine::weights::ValueCheck;
    use std::path::Path;

    fn hash(dir: &Path) -> Hash {
        base_hash(&ModelConfig::open(dir).unwrap(), &WeightFiles::open(dir, ValueCheck::Skip).unwrap())
    }

    #[test]
    fn a_base_is_known_by_its_numbers_and_not_by_its_files() {
        let model = tiny_model("tiny-llama");
        let copy = |change: fn(&mut RawTensor)| {
            let dir = tempfile::TempDir::new().unwrap();
            let mut all = Vec::new();
            for name in files(&model).keys() {
                let path = model.join(name);
                match name.extension().is_some_and(|ending| ending == "safetensors") {
                    true => all.extend(read_tensors(&path).0),
                    false => drop(std::fs::copy(&path, dir.path().join(name)).unwrap()),
                }
            }
            std::fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
            all.iter_mut().for_each(change);
            write_tensors(&dir.path().join("model.safetensors"), &all, &Default::default());
            dir
        };
        assert_eq!(hash(copy(|_| ()).path()), hash(&model), "one file in place of two");
        let other = copy(|tensor| {
            if tensor.name == "model.layers.1.self_attn.k_proj.weight" {
                tensor.bytes[0] ^= 1;
            }
        });
        let wider = copy(|tensor| {
            assert_eq!(tensor.dtype, Dtype::BF16);
            let wide = |&bytes: &[u8; 2]| bf16::from_le_bytes(bytes).to_f32().to_le_bytes();
            tensor.bytes = tensor.bytes.as_chunks::<2>().0.iter().flat_map(wide).collect();
            tensor.dtype = Dtype::F32;
        });
        assert_eq!(hash(wider.path()), hash(&model), "the same numbers as f32");
        assert_ne!(hash(other.path()), hash(&model));
        assert_ne!(hash(&tiny_model("tiny-llama31")), hash(&model));
    }

    #[test]
    fn an_adapter_is_known_by_its_values_scaling_and_layers() {
        let model = load_model(&tiny_model("tiny-llama"));
        let plain = LoraConfig { rank: 2, ..LoraConfig::default() };
        let fresh =
            |config: &LoraConfig, seed| adapter_hash(Adapter::fresh(&model, config, seed).unwrap().set()).unwrap();
        let first = fresh(&plain, 0);
        assert_eq!(fresh(&plain, 0), first);
        assert_ne!(fresh(&plain, 1), first);
        assert_ne!(fresh(&LoraConfig { alpha: 31.0, ..plain.clone() }, 0), first);
        assert_ne!(fresh(&LoraConfig { target_modules: "q_proj".parse().unwrap(), ..plain }, 0), first);
    }
}
