//! Hashes that say which base and which adapter: what is written beside an adapter or a run, and compared when it is used.

use align_engine::autograd::param::Param;
use align_engine::model::adapters::AdapterSet;
use align_engine::model::{Layout, ModelConfig};
use align_engine::weights::{Checkpoint, SafetensorsFile, TensorInfo};
use blake3::{Hash, Hasher};
use std::collections::HashMap;

/// Blocks of a tensor whose bytes are looked at.
const BLOCKS: usize = 8;
const BLOCK: usize = 4096;

/// Hash of the weights that a model of this configuration uses: of every tensor the number format, the shape and some blocks of its
/// bytes. Fine-tuning changes nearly every number, so that this tells models apart at a thousandth of the reading; it is no
/// proof that all bytes are the same.
///
/// Neither the folder, nor how the tensors are shared out among files, nor the prefix of their names is in it. Tensors that are
/// missing count as such; loading refuses them.
pub fn base_hash(config: &ModelConfig, checkpoint: &Checkpoint) -> Hash {
    let layout = Layout::of(config, checkpoint);
    let stored: HashMap<&str, (&TensorInfo, &SafetensorsFile)> =
        checkpoint.tensors().map(|(tensor, file)| (tensor.name.as_str(), (tensor, file))).collect();
    let mut hasher = Hasher::new();
    for (place, (name, _)) in layout.tensors(config).iter().enumerate() {
        let Some((tensor, file)) = stored.get(name.as_str()) else { continue };
        hasher.update(&(place as u64).to_le_bytes());
        hasher.update(format!("{} {:?}", tensor.dtype, tensor.shape).as_bytes());
        let data = file.data(tensor);
        let stride = (data.len() / BLOCKS).max(BLOCK);
        for block in data.chunks(stride) {
            hasher.update(&block[..block.len().min(BLOCK)]);
        }
    }
    hasher.finalize()
}

/// Hash of the values of an adapter, layer by layer: the same for two files with the same numbers, whatever their names.
pub fn adapter_hash(adapter: &AdapterSet) -> Hash {
    let mut hasher = Hasher::new();
    let mut add = |param: &Param| {
        for size in param.shape() {
            hasher.update(&(size as u64).to_le_bytes());
        }
        let values = param.read().view().download();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hasher.update(&bytes);
    };
    for (_, update) in adapter.iter() {
        add(&update.lora_a);
        add(&update.lora_b);
    }
    if let Some(head) = adapter.score_head() {
        add(head);
    }
    for (linear, update) in adapter.iter() {
        hasher.update(&(linear.0 as u64).to_le_bytes());
        hasher.update(&update.scaling.to_le_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::super::{Adapter, LoraConfig};
    use super::*;
    use align_engine::weights::ValueCheck;
    use std::path::Path;

    fn hash(dir: &Path) -> Hash {
        base_hash(&ModelConfig::open(dir).unwrap(), &Checkpoint::open(dir, ValueCheck::Skip).unwrap())
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
        assert_ne!(hash(other.path()), hash(&model));
        assert_ne!(hash(&tiny_model("tiny-llama31")), hash(&model));
    }

    #[test]
    fn an_adapter_is_known_by_its_values_scaling_and_layers() {
        let model = load_model(&tiny_model("tiny-llama"));
        let plain = LoraConfig { rank: 2, ..LoraConfig::default() };
        let fresh = |config: &LoraConfig, seed| adapter_hash(Adapter::fresh(&model, config, seed).unwrap().set());
        let first = fresh(&plain, 0);
        assert_eq!(fresh(&plain, 0), first);
        assert_ne!(fresh(&plain, 1), first);
        assert_ne!(fresh(&LoraConfig { alpha: 31.0, ..plain.clone() }, 0), first);
        assert_ne!(fresh(&LoraConfig { target_modules: "q_proj".parse().unwrap(), ..plain }, 0), first);
    }
}
