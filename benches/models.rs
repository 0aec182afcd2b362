//! The models of the benches: always the small golden model, and a larger one if `ALIGN_SMOLLM2` names its directory.

use align_engine::adapters::{AdapterSet, LowRank};
use align_engine::model::Model;
use align_engine::param::{Param, ParamId};
use align_kernels::rng::Key;
use align_kernels::{Device, KernelError};
use std::path::{Path, PathBuf};

/// Rank of the adapters.
pub(crate) const RANK: usize = 16;

/// A model and pairs to train it on.
pub(crate) struct BenchModel {
    pub name: String,
    pub dir: PathBuf,
    pub data: PathBuf,
}

/// Returns the models that this machine has.
pub(crate) fn all() -> Vec<BenchModel> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (dir, data) = (tests.join("goldens/tiny-llama/model"), tests.join("goldens/pairs.jsonl"));
    let mut models = vec![BenchModel { name: "tiny-llama".to_owned(), dir, data }];
    if let Some(dir) = std::env::var_os("ALIGN_SMOLLM2").map(PathBuf::from) {
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        models.push(BenchModel { name, dir, data: tests.join("data/pref_train.jsonl") });
    }
    models
}

/// Makes an adapter on all linear layers. Unlike in a fresh adapter, both matrices of a layer are random: B is not zero.
pub(crate) fn adapter(device: &Device, model: &Model) -> Result<AdapterSet, KernelError> {
    let mut set = AdapterSet::new(model.linears().len());
    for linear in model.linears() {
        let param = |id: usize, shape: [usize; 2]| {
            let key = Key::new(0, 0, id as u64);
            let spread = (linear.in_features as f32).sqrt().recip();
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| spread * (key.unit(i as u64) - 0.5)).collect();
            Param::new(device, ParamId(id), shape, &values)
        };
        let lora_a = param(2 * linear.id.0, [RANK, linear.in_features])?;
        let lora_b = param(2 * linear.id.0 + 1, [linear.out_features, RANK])?;
        set.insert(linear.id, LowRank { lora_a, lora_b, scaling: 2.0 });
    }
    Ok(set)
}
